"""`serve dashboard`: the web page that watches a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from serve_rt.cli.connection import connect
from serve_rt.config.paths import StateDir
from serve_rt.dashboard.server import bind, show
from serve_rt.handle.address import find_agent


def show_dashboard(host: str, port: int, insecure: bool, address: str | None, state_dir: Path | None) -> None:
    """Until Ctrl-C.

    *Errors*: NoClusterError when none runs, ConfigError when `host` and `port` cannot be had.
    """
    session = connect(address, state_dir)
    token = find_agent(address, StateDir(state_dir.absolute()) if state_dir is not None else None).token()

    def say(url: str) -> None:
        click.echo(f"The dashboard of cluster {session.identity.cluster!r} is at {url}")
        click.echo("Ctrl-C ends it; the cluster goes on.")

    with bind(host, port, insecure) as listener:
        try:
            session.run(show(listener, session.identity.cluster, session.client, token, say))
        except KeyboardInterrupt:
            pass
