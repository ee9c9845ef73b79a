"""`serve run`: the cluster comes up while the user's program is imported; then deploy, wait, tell, stay.

Order matters for the start: the agent's process is the first thing made, before anything of the user's or of gRPC is
imported. However this ends (Ctrl-C, SIGTERM, an error), what was started is stopped.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from serve_rt.api import own_cluster
from serve_rt.api.own_cluster import OwnCluster, open_to_others, somebody_listens
from serve_rt.cli.loading import ImportFailed, check_import_path, load, parse_arguments
from serve_rt.cli.reload import LOOK_EVERY_S, Watched, forget_modules
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException

if TYPE_CHECKING:
    from serve_rt.api.session import Session


@dataclass(frozen=True)
class RunOptions:
    import_path: str
    arguments: tuple[str, ...] = ()
    name: str = "default"
    route_prefix: str = "/"
    app_dir: str = "."
    blocking: bool = True
    reload: bool = False
    address: str | None = None
    http_host: str | None = None
    http_port: int | None = None
    port: int | None = None
    num_cpus: float | None = None
    num_gpus: int | None = None
    state_dir: Path | None = None

    @property
    def file(self) -> str | None:
        """The configuration file, where that is what was named."""
        return self.import_path if self.import_path.endswith((".yaml", ".yml")) else None

    def state(self) -> StateDir:
        return StateDir(self.state_dir.absolute()) if self.state_dir is not None else StateDir.default()

    def flags(self) -> list[str]:
        """Of the agent, when this command starts one."""
        given = {
            "--port": self.port if self.port is not None else 0,
            "--http-host": self.http_host,
            "--http-port": self.http_port,
            "--num-cpus": self.num_cpus,
            "--num-gpus": self.num_gpus,
        }
        flags = [text for flag, value in given.items() if value is not None for text in (flag, str(value))]
        return [*flags, *open_to_others(self.http_host, https=False)]

    def cluster_options(self) -> list[str]:
        given = [name for name in ("http_host", "http_port", "port", "num_cpus", "num_gpus")]
        return ["--" + name.replace("_", "-") for name in given if getattr(self, name) is not None]


def run_application(options: RunOptions) -> int:
    """The exit code."""
    if options.file is not None:
        options = _with_http_of(options, options.file)
    else:
        check_import_path(options.import_path)
    arguments = parse_arguments(options.arguments)
    if options.reload and not options.blocking:
        raise ServeException("--reload needs --blocking: it watches the files until Ctrl-C")
    if not sys.platform.startswith("linux"):
        raise ServeException("`serve run` runs on Linux only")
    signal.signal(signal.SIGTERM, _as_interrupt)
    own = _start_cluster(options)
    try:
        return _run(options, arguments, own)
    except ImportFailed as failed:
        click.echo(str(failed), err=True)
        return 1
    except RuntimeError as failed:  # the deploy failed: its message ends with the user's traceback
        click.echo(f"Error: {failed}", err=True)
        return 1
    except (TypeError, ValueError) as failed:
        if isinstance(failed, ServeException):
            raise
        click.echo(f"Error: {failed}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130 if own is None else 0
    finally:
        _stop(own)


def _as_interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _start_cluster(options: RunOptions) -> OwnCluster | None:
    """An agent of our own that comes up from now on; None when there is a cluster to join."""
    state = options.state()
    address = options.address or os.environ.get("SERVE_ADDRESS")
    if address:
        return None
    try:
        known = state.address.read_text().strip()
    except OSError:
        known = ""
    if known and somebody_listens(known):
        if options.cluster_options():
            shown = ", ".join(options.cluster_options())
            click.echo(f"Warning: a cluster is running already at {known}: {shown} are ignored", err=True)
        return None
    own_cluster.starting = own = OwnCluster.start(state, options.flags())
    os.environ["SERVE_STATE_DIR"] = str(state.path)
    return own


def _run(options: RunOptions, arguments: dict[str, str], own: OwnCluster | None) -> int:
    if not options.blocking and own is not None:
        click.echo(
            "Warning: with --non-blocking the cluster that `serve run` starts ends with it; start one with "
            "`serve-agent` to keep the application running",
            err=True,
        )
    import_all = _of_file(options) if options.file is not None else _of_import_path(options, arguments)
    deploy = import_all()
    from serve_rt.api import session as sessions
    from serve_rt.api.run import wait_for_ever

    sessions.show_logs()
    logging.getLogger("serve_rt.api.run").setLevel(logging.ERROR)  # this command says those things itself
    if own is not None:
        session = sessions.adopt_own(own, options.state())
    else:
        session = sessions.current(options.address, options.state())
    _say_ready(session, deploy(session), options)
    if options.reload:
        _reload_for_ever(session, import_all, options)
    elif options.blocking:
        wait_for_ever()
    return 0


Prefixes = list[tuple[str, str | None]]
"""Application and route prefix, of all that was deployed."""
Deploy = Callable[["Session"], Prefixes]
"""Sends what was imported, and waits until it answers."""


def _of_import_path(options: RunOptions, arguments: dict[str, str]) -> Callable[[], Deploy]:
    def import_all() -> Deploy:
        application = load(options.import_path, arguments, Path(options.app_dir))

        def deploy(session: Session) -> Prefixes:
            from serve_rt.api.run import _run_many
            from serve_rt.api.targets import RunTarget, prefix_of

            prefix = prefix_of(application, options.route_prefix)
            target = RunTarget(application, options.name, prefix)
            _run_many([target], import_path=options.import_path, code_root=Path(options.app_dir), session=session)
            return [(options.name, prefix)]

        return deploy

    return import_all


def _of_file(options: RunOptions) -> Callable[[], Deploy]:
    def import_all() -> Deploy:
        from serve_rt.cli.config_file import build_all, read_file

        assert options.file is not None
        built = build_all(read_file(options.file), Path(options.app_dir))

        def deploy(session: Session) -> Prefixes:
            from serve_rt.api.waiting import until_routed, until_running
            from serve_rt.cli.config_file import deploy_all

            deploy_all(session, built)
            for one in built:
                until_running(session, one.spec)
                if one.spec.route_prefix is not None and session.identity.http_address:
                    until_routed(session.identity.http_address, one.spec)
            return [(one.spec.name, one.spec.route_prefix) for one in built]

        return deploy

    return import_all


def _with_http_of(options: RunOptions, file: str) -> RunOptions:
    """The file's http_options are the cluster's that this command starts; flags go before them."""
    from serve_rt.cli.config_file import NOT_APPLIED, read_file

    if options.arguments or options.name != "default" or options.route_prefix != "/":
        raise click.UsageError("KEY=VALUE arguments, --name and --route-prefix go into the file.")
    config = read_file(file)
    http = config.cluster.get("http_options") or {}
    if config.cluster.get("grpc_options"):
        click.echo(f"# grpc_options is not applied: {NOT_APPLIED['grpc_options']}.", err=True)
    return replace(
        options,
        http_host=options.http_host if options.http_host is not None else http.get("host"),
        http_port=options.http_port if options.http_port is not None else http.get("port"),
    )


def _reload_for_ever(session: Session, import_all: Callable[[], Deploy], options: RunOptions) -> None:
    folder, waiting = Path(options.app_dir), threading.Event()
    watched = Watched(folder)
    click.echo(f"Watching {folder.resolve()} for changes.")
    while session.may_live:
        waiting.wait(LOOK_EVERY_S)
        changed = watched.changed()
        if not changed:
            continue
        click.echo(f"Changed: {', '.join(changed[:5])}{' and others' if len(changed) > 5 else ''}. Deploying again.")
        forget_modules(folder)
        try:
            _say_ready(session, import_all()(session), options)
        except (ImportFailed, click.ClickException, RuntimeError, TypeError, ValueError, ServeException) as error:
            click.echo(f"{error}\nThe former version goes on.", err=True)
    raise RuntimeError("the agent of this cluster has ended; see agent.log in the state dir's logs folder")


def _say_ready(session: Session, prefixes: Prefixes, options: RunOptions) -> None:
    from serve_rt.api.run import url_of

    for name, prefix in prefixes:
        if not session.identity.http_address or prefix is None:
            click.echo(f"Application {name!r} is ready.")
            continue
        url = url_of(session, prefix)
        click.echo(f"Application {name!r} is ready at {url}")
        click.echo(f"    curl {url}")
    if options.blocking:
        ends = (
            "Ctrl-C stops everything" if session.own is not None else "Ctrl-C leaves it running; `serve delete` ends it"
        )
        click.echo(f"{ends}.")
    sys.stdout.flush()


def _stop(own: OwnCluster | None) -> None:
    """Leave nothing: close the session if there is one, and stop the agent that was started in any case."""
    try:
        if "serve_rt.api.session" in sys.modules:
            from serve_rt.api import session as sessions

            sessions.close()
    finally:  # a second Ctrl-C may end the polite half
        if own is not None:
            own.stop()
