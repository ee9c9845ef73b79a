"""`serve drain`, `cordon`, `uncordon`, `nodes forget` and `autoscale --dry-run`: what an operator says and asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from serve_rt.api.session import Session
from serve_rt.cli.connection import connect
from serve_rt.model.node import NodeMark
from serve_rt.model.scaling import DeploymentScaling, ScalingOverview
from serve_rt.model.status import NodeOverview

_LOOK_S = 0.25
_WORDS = {
    NodeMark.CORDONED: "takes no further replicas",
    NodeMark.SCHEDULABLE: "takes replicas again",
}


def mark_node(node: str, mark: str, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError naming the nodes there are."""
    session = connect(address, state_dir)
    session.run(session.client.mark_node(node, NodeMark(mark)))
    click.echo(f"Node {node!r} {_WORDS[NodeMark(mark)]}.")


def drain_node(node: str, timeout_s: float, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError; ClickException with what is in the way when it is not empty in time."""
    session = connect(address, state_dir)
    session.run(session.client.mark_node(node, NodeMark.DRAINING))
    if timeout_s == 0:
        click.echo(f"Node {node!r} is being drained.")
        return
    give_up_at, said = time.monotonic() + timeout_s, -1
    while left := _replicas_on(session, node):
        if len(left) != said:
            said = len(left)
            click.echo(f"{said} replicas are left on node {node!r}", err=True)
        if time.monotonic() > give_up_at:
            raise click.ClickException(_not_drained(session, node, left, timeout_s))
        time.sleep(_LOOK_S)
    click.echo(f"Node {node!r} is drained: `serve-agent stop` there ends it, `serve uncordon {node}` takes it back.")


def _replicas_on(session: Session, node: str) -> list[str]:
    found: list[NodeOverview] = [one for one in session.run(session.client.nodes()).nodes if one.node_id == node]
    return [replica.replica_id for one in found for replica in one.replicas]


def _not_drained(session: Session, node: str, left: list[str], timeout_s: float) -> str:
    pending = session.run(session.client.nodes()).pending
    why = "".join(f"\n{deployment}: {reason}" for deployment, reason in pending.items())
    return (
        f"node {node!r} still holds {', '.join(left)} after {timeout_s:g} s; it goes on being drained, "
        f"`serve uncordon {node}` takes that back.{why}"
    )


def forget_node(node: str, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError; ConfigError for a node that is alive."""
    session = connect(address, state_dir)
    session.run(session.client.mark_node(node, NodeMark.FORGOTTEN))
    click.echo(f"Node {node!r} is given up: its replicas are replaced. Should it return, it starts with none.")


# --- autoscaling --------------------------------------------------------------------------------------------------


def print_autoscaling(app: str, address: str | None, state_dir: Path | None) -> None:
    """*Errors*: NotFoundError for an application that is not there."""
    session = connect(address, state_dir)
    for line in autoscaling_lines(session.run(session.client.autoscaling(app))):
        click.echo(line)


def autoscaling_lines(overview: ScalingOverview) -> Iterator[str]:
    for one in overview.deployments:
        yield f"{one.app}#{one.deployment}: {_verdict(one)}"
        yield f"  because:  {one.why}"
        allowed = f"{one.min_replicas} to {one.max_replicas} allowed"
        yield f"  replicas: {one.running} running, {one.target} wanted, {allowed}"
        heard = "" if one.complete else "; not every reporter was heard for one look-back, so it does not fall"
        yield (
            f"  requests: {one.queued:g} queued, {one.ongoing:g} running now; {one.total:.2f} over the look-back, "
            f"{one.peak:.2f} at its busiest{heard}"
        )
        if one.policy:
            yield f"  policy:   {one.policy}"
        for replica, values in sorted(one.stats.items()):
            yield f"  stats:    {replica}: {', '.join(f'{name}={value:g}' for name, value in sorted(values.items()))}"
    for name in overview.fixed:
        yield f"{name}: a fixed number of replicas"
    if not overview.deployments and not overview.fixed:
        yield "no deployment"


def _verdict(one: DeploymentScaling) -> str:
    if one.wait_s is None:
        return f"would stay at {one.target}"
    when = f"in {one.wait_s:.1f} s, if it stays like this" if one.wait_s > 0.0 else "now"
    return f"would go from {one.target} to {one.aim} replicas {when}"
