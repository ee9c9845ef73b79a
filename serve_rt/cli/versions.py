"""`serve history` and `serve rollback`: the versions of an application, and the way back to one."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_rt.cli.connection import connect
from serve_rt.errors import NotFoundError
from serve_rt.model.status import ApplicationStatusOverview, VersionOverview

if TYPE_CHECKING:
    from rich.table import Table

_DIGEST_CHARS = 8


def print_history(app: str, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError for an application that is not there."""
    session = connect(address, state_dir)
    applications = session.run(session.client.status()).applications
    if app not in applications:
        there = f"running: {', '.join(applications)}" if applications else "none is running"
        raise NotFoundError(f"There is no application {app!r} ({there}).")
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=220)  # for a file or a pipe: nothing is cut
    console.print(history_table(applications[app]))


def history_table(overview: ApplicationStatusOverview) -> Table:
    from rich.table import Table

    table = Table()
    for heading in ("version", "state", "deployed", "deployments", "from", "message"):
        table.add_column(heading)
    for version in overview.versions:
        table.add_row(
            str(version.number),
            str(version.state),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version.deployed_time_s)),
            "\n".join(_deployment(version, name) for name in version.deployments),
            f"version {version.restores}" if version.restores else version.import_path or "-",
            version.message.strip().splitlines()[-1] if version.message.strip() else "",
        )
    return table


def _deployment(version: VersionOverview, name: str) -> str:
    ingress = " (ingress)" if name == version.ingress and len(version.deployments) > 1 else ""
    return f"{name}{ingress} {version.deployments[name][:_DIGEST_CHARS]}"


def roll_back(app: str, to_version: int | None, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError naming the versions there are."""
    session = connect(address, state_dir)
    number, spec = session.run(session.client.rollback(app, to_version or 0, uuid.uuid4().hex))
    from serve_rt.api.waiting import until_running

    try:
        until_running(session, spec)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Application {app!r} runs version {number} again.")
