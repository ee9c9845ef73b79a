"""`serve status`, `serve nodes`, `serve logs`: what there is, for people and for scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_rt.cli.connection import connect
from serve_rt.errors import NotFoundError
from serve_rt.model.node import NodeMark
from serve_rt.model.status import ApplicationStatusOverview, NodeOverview, NodesOverview, ReplicaOverview, ServeStatus

if TYPE_CHECKING:
    from rich.table import Table

_STALE_S = 5.0


def print_status(address: str | None, state_dir: Path | None, name: str | None) -> None:
    session = connect(address, state_dir)
    found = session.run(session.client.status())
    click.echo(status_yaml(found, name), nl=False)
    for note in found.notes:
        click.echo(f"# {note}", err=True)
    if found.age_s > _STALE_S:
        click.echo(f"# as of {found.age_s:.0f} s ago", err=True)


def status_yaml(status: ServeStatus, name: str | None = None) -> str:
    """In Ray's keys and order, so that scripts go on working.

    *Errors*: NotFoundError for an application that is not there.
    """
    import yaml

    if name is not None:
        if name not in status.applications:
            raise NotFoundError(f"There is no application {name!r}.")
        return _dump(yaml, _application(status.applications[name]))
    shown = {
        "proxies": {node: str(state) for node, state in status.proxies.items()},
        "applications": {app: _application(overview) for app, overview in status.applications.items()},
        "target_capacity": status.target_capacity,
    }
    return _dump(yaml, shown)


def _dump(yaml: Any, shown: object) -> str:
    """Tracebacks as blocks, so that people can read them; the same YAML for programs."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml is handed over as Any: it is loaded here alone
        pass

    def text_node(dumper: Any, text: str) -> Any:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, text_node)
    text: str = yaml.dump(shown, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def _application(overview: ApplicationStatusOverview) -> dict[str, Any]:
    return {
        "status": str(overview.status),
        "message": overview.message,
        "last_deployed_time_s": overview.last_deployed_time_s,
        "deployments": {
            name: {
                "status": str(one.status),
                "status_trigger": str(one.status_trigger),
                "replica_states": dict(one.replica_states),
                "message": one.message,
            }
            for name, one in overview.deployments.items()
        },
    }


# --- nodes --------------------------------------------------------------------------------------------------------


def print_nodes(address: str | None, state_dir: Path | None) -> None:
    session = connect(address, state_dir)
    overview = session.run(session.client.nodes())
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=220)  # for a file or a pipe: nothing is cut
    for table in (nodes_table(overview), replicas_table(overview)):
        console.print(table)
    for deployment, reason in overview.pending.items():
        console.print(f"pending: {deployment}: {reason}", markup=False)
    for replica in overview.unowned:
        console.print(f"unowned: {replica} (deploy its application to adopt it)", markup=False)


def nodes_table(overview: NodesOverview) -> Table:
    from rich.table import Table

    table = Table(title="Nodes")
    for heading in ("node", "state", "agent", "http", "CPU used", "memory", "GPUs", "launcher", "labels"):
        table.add_column(heading)
    for node in overview.nodes:
        table.add_row(
            node.node_id + (" (leader)" if node.is_leader else ""),
            _state(node),
            node.address,
            node.http_address,
            f"{_cpus(sum(replica.milli_cpu for replica in node.replicas))}/{_cpus(node.milli_cpu)}",
            f"{node.memory_bytes / (1 << 30):.1f} GiB",
            "\n".join(_gpu_lines(node)) or "-",
            node.launcher,
            "\n".join(f"{key}={value}" for key, value in node.labels.items()),
        )
    return table


def _state(node: NodeOverview) -> str:
    """A mark outlives the lease: whoever starts the node again should know that it takes nothing."""
    if node.alive:
        return node.mark
    return "LOST" if node.mark == NodeMark.SCHEDULABLE.value else f"LOST, {node.mark}"


def _cpus(milli: int) -> str:
    return f"{milli / 1000:g}"


def _gpu_lines(node: NodeOverview) -> Iterator[str]:
    for uuid in node.gpus:
        used = sum(replica.devices.get(uuid, 0) for replica in node.replicas)
        yield f"{short(uuid)} {node.gpu_names.get(uuid, '')} {used / 1000:g} used".replace("  ", " ")


def replicas_table(overview: NodesOverview) -> Table:
    from rich.table import Table

    table = Table(title="Replicas")
    for heading in ("replica", "node", "state", "pid", "incarnation", "CPU", "GPU", "message"):
        table.add_column(heading)
    for node in overview.nodes:
        for replica in node.replicas:
            table.add_row(
                replica.replica_id,
                node.node_id,
                replica.state,
                str(replica.pid or "-"),
                str(replica.incarnation),
                _cpus(replica.milli_cpu),
                _devices(replica.devices) or "-",
                _last_line(replica),
            )
    return table


def _devices(devices: Mapping[str, int]) -> str:
    return "\n".join(f"{milli / 1000:g} of {short(uuid)}" for uuid, milli in devices.items())


def short(uuid: str) -> str:
    """Enough of a UUID to know it by."""
    return uuid if len(uuid) <= 16 else uuid[:12] + "…"


def _last_line(replica: ReplicaOverview) -> str:
    lines = replica.message.strip().splitlines()
    return lines[-1] if lines else ""


# --- logs ---------------------------------------------------------------------------------------------------------


def print_logs(app: str, replica: str, tail: int, follow: bool, address: str | None, state_dir: Path | None) -> None:
    session = connect(address, state_dir)
    if app and app not in session.run(session.client.status()).applications:
        click.echo(f"# {app!r} is not running; what is left of its logs:", err=True)

    async def show() -> None:
        last = None
        async for source, data in session.client.logs(app, replica, tail, follow=follow):
            if source != last:
                click.echo(f"==> {source} <==")
                last = source
            click.echo(data.decode(errors="replace"), nl=False)

    try:
        session.run(show())
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
