"""`serve scale`, `serve delete` and `serve shutdown`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import click

from serve_rt.api.waiting import until_deleted
from serve_rt.cli.connection import connect
from serve_rt.errors import NotFoundError


def scale_deployment(app: str, deployment: str, num_replicas: int, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError naming what there is; ConfigError when it is autoscaled."""
    session = connect(address, state_dir)
    session.run(session.client.scale(app, deployment, num_replicas, uuid.uuid4().hex))
    plural = "" if num_replicas == 1 else "s"
    click.echo(f"Deployment {deployment!r} of application {app!r} goes to {num_replicas} replica{plural}.")


def delete_application(app: str, address: str | None, state_dir: Path | None) -> None:
    session = connect(address, state_dir)
    known = session.run(session.client.status()).applications
    if app not in known:
        there = f"running: {', '.join(known)}" if known else "none is running"
        raise NotFoundError(f"There is no application {app!r} ({there}).")
    session.run(session.client.delete(app, uuid.uuid4().hex))
    _wait(lambda: until_deleted(session, [app]))
    click.echo(f"Deleted application {app!r}.")


def shut_down(address: str | None, state_dir: Path | None, *, ask: bool) -> None:
    session = connect(address, state_dir)
    if ask:
        click.confirm("This deletes all applications of the cluster. Go on?", abort=True)
    session.run(session.client.delete("", uuid.uuid4().hex))
    _wait(lambda: until_deleted(session, None))
    if _belongs_to_a_program(session.identity.pid):
        session.run(session.client.leave(force=False, drain_s=5.0))
        click.echo("All applications are deleted, and the cluster, which a program had started, is stopped.")
    else:
        click.echo("All applications are deleted. `serve-agent stop` ends a node.")


def _belongs_to_a_program(agent_pid: int) -> bool:
    """Was this machine's agent started by `serve run` or a script? Its command line says so."""
    try:
        return b"--owner-pid" in Path(f"/proc/{agent_pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _wait(step: Callable[[], None]) -> None:
    try:
        step()
    except TimeoutError as error:
        raise click.ClickException(str(error)) from error
