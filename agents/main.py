"""`serve-agent`: the only process a person starts on a node.

    serve-agent [start] …    run an agent until it is told to end
    serve-agent stop         end this node: drain, stop everything, leave nothing; works without a running agent
    serve-agent restart-proxies

Reads the command line into Settings and hands over to `boot`. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from serve_rt.agents.settings import (
    MAX_PROXY_WORKERS,
    PortRange,
    Settings,
    parse_endpoints,
    parse_labels,
    parse_memory,
    parse_resources,
)
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException
from serve_rt.model.proxies import ProxyLocation
from serve_rt.model.starts import EtcdAddress
from serve_rt.proxy.limits import parse_limits

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"]


class _StartByDefault(click.Group):
    """`serve-agent --port 7301` is `serve-agent start --port 7301`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "--version")):
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_StartByDefault)
def main() -> None:
    """Run one node of a serve_rt cluster."""


_state_dir = click.option(
    "--state-dir", type=click.Path(path_type=Path), default=None, help="[default: $SERVE_STATE_DIR, else in your home]"
)


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=7300, show_default=True, help="gRPC; 0 = any free one")
@click.option("--host", default="127.0.0.1", show_default=True, help="where agent and replicas listen")
@click.option("--advertise-host", default="", help="what others connect to  [default: --host]")
@click.option("--http-host", default="127.0.0.1", show_default=True)
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--http-root-path", default="", help="what a reverse proxy before this one takes off each path")
@click.option("--http-keep-alive-timeout-s", type=float, default=90.0, show_default=True, help="of idle connections")
@click.option("--http-request-timeout-s", type=float, default=None, help="for whole requests  [default: no limit]")
@click.option("--http-ssl-certfile", default="", help="PEM file: serve HTTPS, with the key in --http-ssl-keyfile")
@click.option("--http-ssl-keyfile", default="", help="PEM file, not encrypted")
@click.option("--http-limit", multiple=True, help="name=value: a row of the table in serve_rt/proxy/README.md")
@click.option("--replica-ports", default="20000-29999", show_default=True)
@click.option("--node-id", default="", help="[default: random, kept in the state dir]")
@click.option("--cluster", default="default", show_default=True)
@click.option("--etcd", default="", help="host:port[,host:port…] or unix:/path  [default: an embedded one]")
@click.option("--etcd-ca", default="", help="PEM file")
@click.option("--etcd-cert", default="", help="PEM file")
@click.option("--etcd-key", default="", help="PEM file")
@click.option("--etcd-listen", default="", help="host:port the embedded etcd listens on besides its socket")
@click.option("--num-cpus", type=float, default=None, help="[default: what this process may use]")
@click.option("--memory", default=None, help="8GiB, 500M, …  [default: this machine's]")
@click.option("--num-gpus", type=click.IntRange(0, 1024), default=None, help="declares fake ones where there are fewer")
@click.option("--labels", multiple=True, help="name=value[,name=value…]")
@click.option("--resources", multiple=True, help="custom ones of this node: name=number[,name=number…]")
@_state_dir
@click.option("--controller/--no-controller", default=True, help="be a candidate for the cluster's leader")
@click.option("--proxy/--no-proxy", default=True, help="serve HTTP on this node")
@click.option(
    "--proxy-location",
    type=click.Choice([location.value for location in ProxyLocation]),
    default=None,
    help="of the whole cluster, said by its first agent: which nodes serve HTTP  [default: EveryNode]",
)
@click.option("--proxy-workers", type=click.IntRange(0, MAX_PROXY_WORKERS), default=1, show_default=True)
@click.option("--drain-on-term", is_flag=True, help="SIGTERM ends the node instead of this process only")
@click.option("--insecure", is_flag=True, help="allow addresses that other machines can reach, without TLS")
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.option("--ready-fd", type=int, default=None, hidden=True)
@click.option("--owner-pid", type=int, default=None, hidden=True)
@click.option("--orphan-timeout-s", type=float, default=600.0, hidden=True)
def start(**options: Any) -> None:  # Any: one per option, typed by click
    """Run an agent until it is told to end (the default verb).

    SIGINT, SIGHUP and `serve-agent stop` end the node. SIGTERM ends this process only: replicas and proxies go on and
    are adopted by the next agent.
    """
    with _told_in_one_sentence():
        settings = _settings(options)
        _prepare_process(settings)
        from serve_rt.agents.boot import boot

        code = asyncio.run(boot(settings))
    _end(code)


@main.command()
@_state_dir
@click.option("--force", is_flag=True, help="also when this node hosts the etcd that other nodes use")
@click.option("--drain-s", type=float, default=30.0, show_default=True, help="for requests that still run")
def stop(state_dir: Path | None, force: bool, drain_s: float) -> None:
    """End this node: drain, stop everything, leave nothing. Works without a running agent."""
    with _told_in_one_sentence():
        from serve_rt.agents.stopping import stop_node

        said = asyncio.run(stop_node(_state(state_dir), force=force, drain_s=drain_s))
    click.echo(said)


@main.command("restart-proxies")
@_state_dir
def restart_proxies(state_dir: Path | None) -> None:
    """Replace every proxy worker of this node, hot: no connection is refused."""
    with _told_in_one_sentence():
        from serve_rt.agents.stopping import restart_node_proxies

        count = asyncio.run(restart_node_proxies(_state(state_dir)))
    click.echo(f"replaced {count} proxy worker{'' if count == 1 else 's'}")


def _settings(options: dict[str, Any]) -> Settings:
    taken = dict(options)
    etcd = EtcdAddress(
        endpoints=parse_endpoints(taken.pop("etcd")) if taken["etcd"] else (),
        ca=taken.pop("etcd_ca"),
        cert=taken.pop("etcd_cert"),
        key=taken.pop("etcd_key"),
    )
    taken.pop("etcd", None)
    memory, location = taken.pop("memory"), taken.pop("proxy_location")
    for name in ("http_ssl_certfile", "http_ssl_keyfile"):  # workers have another working directory
        taken[name] = os.path.abspath(taken[name]) if taken[name] else ""
    return Settings(
        state=_state(taken.pop("state_dir")),
        etcd=etcd if etcd.endpoints else None,
        memory_bytes=parse_memory(memory) if memory is not None else None,
        proxy_location=ProxyLocation(location) if location is not None else None,
        labels=parse_labels(taken.pop("labels")),
        custom=parse_resources(taken.pop("resources")),
        http_limits=parse_limits(taken.pop("http_limit")),
        replica_ports=PortRange.parse(taken.pop("replica_ports")),
        log_level=taken.pop("log_level").upper(),
        **taken,
    ).check()


def _state(path: Path | None) -> StateDir:
    return StateDir(path.absolute()) if path is not None else StateDir.default()


def _prepare_process(settings: Settings) -> None:
    import resource

    import setproctitle

    if not sys.platform.startswith("linux"):
        raise ServeException("serve-agent runs on Linux only; local testing mode works everywhere")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    setproctitle.setproctitle(f"serve-rt agent {settings.node_id or settings.state.path}")
    _configure_logs(settings)


def _configure_logs(settings: Settings) -> None:
    """To stderr for whoever watches, and to a file for whoever comes later."""
    import logging.handlers

    from serve_rt.observe.log import FieldFormatter, configure

    settings.state.create()
    configure("agent", settings.log_level)
    file = logging.handlers.RotatingFileHandler(
        settings.state.logs / "agent.log", maxBytes=64 << 20, backupCount=3, delay=True
    )
    file.setFormatter(FieldFormatter("agent"))
    logging.getLogger().addHandler(file)


class _told_in_one_sentence:
    """What a user can mend is told in a sentence and an exit code; a bug of ours keeps its stack trace."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ServeException):
            click.echo(f"serve-agent: {error}", err=True)
            _end(1)


def _end(code: int) -> None:
    """Leave without the interpreter's own ending: grpc's poller thread can hang in it, and there is nothing to save."""
    import logging

    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
