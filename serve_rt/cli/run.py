"""`serve run`: the cluster comes up while the user's program is imported; then deploy, wait, tell, stay.

Order matters for the start: the agent's process is the first thing made, before anything of the user's or of gRPC is
imported. However this ends (Ctrl-C, SIGTERM, an error), what was started is stopped.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from serve_rt.api.own_cluster import OwnCluster, somebody_listens
from serve_rt.config.paths import StateDir
from serve_rt.errors import ServeException

if TYPE_CHECKING:
    from serve_rt.api.deployment import Application
    from serve_rt.api.session import Session


@dataclass(frozen=True)
class RunOptions:
    import_path: str
    arguments: tuple[str, ...] = ()
    name: str = "default"
    route_prefix: str = "/"
    app_dir: str = "."
    blocking: bool = True
    address: str | None = None
    http_host: str | None = None
    http_port: int | None = None
    port: int | None = None
    num_cpus: float | None = None
    num_gpus: int | None = None
    state_dir: Path | None = None

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
        return [text for flag, value in given.items() if value is not None for text in (flag, str(value))]

    def cluster_options(self) -> list[str]:
        given = [name for name in ("http_host", "http_port", "port", "num_cpus", "num_gpus")]
        return ["--" + name.replace("_", "-") for name in given if getattr(self, name) is not None]


class ImportFailed(Exception):
    """The user's module or builder raised; the text is the user's traceback."""


def run_application(options: RunOptions) -> int:
    """The exit code."""
    arguments = parse_arguments(options.arguments)
    check_import_path(options.import_path)
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
    return OwnCluster.start(state, options.flags())


def _run(options: RunOptions, arguments: dict[str, str], own: OwnCluster | None) -> int:
    if not options.blocking and own is not None:
        click.echo(
            "Warning: with --non-blocking the cluster that `serve run` starts ends with it; start one with "
            "`serve-agent` to keep the application running",
            err=True,
        )
    application = load(options.import_path, arguments, Path(options.app_dir))
    from serve_rt.api import session as sessions
    from serve_rt.api.run import _run_many, wait_for_ever
    from serve_rt.api.targets import RunTarget, prefix_of

    sessions.show_logs()
    logging.getLogger("serve_rt.api.run").setLevel(logging.ERROR)  # this command says those things itself
    if own is not None:
        session = sessions.adopt_own(own, options.state())
    else:
        session = sessions.current(options.address, options.state())
    prefix = prefix_of(application, options.route_prefix)
    _run_many(
        [RunTarget(application, options.name, prefix)],
        import_path=options.import_path,
        code_root=Path(options.app_dir),
        session=session,
    )
    _say_ready(session, prefix, options)
    if options.blocking:
        wait_for_ever()
    return 0


def _say_ready(session: Session, prefix: str | None, options: RunOptions) -> None:
    from serve_rt.api.run import url_of

    if not session.identity.http_address or prefix is None:
        click.echo(f"Application {options.name!r} is ready.")
        return
    url = url_of(session, prefix)
    click.echo(f"Application {options.name!r} is ready at {url}")
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


# --- what to run --------------------------------------------------------------------------------------------------


def check_import_path(import_path: str) -> None:
    """*Errors*: ServeException unless it is module:name."""
    module, colon, name = import_path.partition(":")
    if not (colon and module and name):
        hint = f" Did you mean {module.removesuffix('.py').replace('/', '.')}:app?" if module else ""
        raise ServeException(f"IMPORT_PATH {import_path!r} is not of the form module:name.{hint}")


def parse_arguments(texts: tuple[str, ...]) -> dict[str, str]:
    """*Errors*: ServeException for one that is not key=value."""
    arguments: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ServeException(f"Invalid application argument '{text}', must be of the form '<key>=<val>'.")
        arguments[key] = value
    return arguments


def load(import_path: str, arguments: dict[str, str], app_dir: Path) -> Application:
    """Import the application, or build it with the function found.

    *Errors*: ImportFailed with the user's traceback; ServeException when what is found is no application.
    """
    folder = str(app_dir.resolve())
    if not app_dir.is_dir():
        raise ServeException(f"--app-dir {app_dir} is not a folder")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_name, _, attribute = import_path.partition(":")
    module = _import(module_name, folder)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ServeException(_no_such(module_name, attribute, module))
        found = getattr(found, name)
    return build_application(found, import_path, arguments)


def _import(module_name: str, folder: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ServeException(
                f"There is no module {error.name!r}: looked in {folder} (see --app-dir) and in the installed packages."
            ) from error
        raise ImportFailed(users_traceback(error)) from error
    except (Exception, SystemExit) as error:  # user code
        raise ImportFailed(users_traceback(error)) from error


def _no_such(module_name: str, attribute: str, module: Any) -> str:
    from serve_rt.api.deployment import Application

    applications = [name for name, value in vars(module).items() if isinstance(value, Application)]
    hint = f" It has the applications {', '.join(applications)}." if applications else " It has no application at all."
    return f"Module {module_name!r} has no attribute {attribute!r}.{hint}"


def build_application(found: Any, import_path: str, arguments: dict[str, str]) -> Application:
    from serve_rt.api.builder import build_with
    from serve_rt.api.deployment import Application, Deployment

    if isinstance(found, Application):
        if arguments:
            raise ServeException(
                f"Arguments {arguments} were given, but {import_path!r} is an application, not a function that "
                "builds one."
            )
        return found
    if isinstance(found, Deployment) or not callable(found):
        what = f"is a {type(found).__name__}"
        fix = "give it .bind(...)" if isinstance(found, Deployment) else "it must be what `.bind()` returns"
        raise ServeException(f"{import_path!r} {what}, not an Application: {fix}.")
    try:
        return build_with(found, arguments)
    except (ServeException, TypeError) as error:
        if isinstance(error, TypeError) and error.__traceback__ is not None and _raised_by_user(error):
            raise ImportFailed(users_traceback(error)) from error
        raise
    except Exception as error:  # user code
        raise ImportFailed(users_traceback(error)) from error


def _raised_by_user(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and not _is_ours(frames[-1].filename)


_OURS = str(Path(__file__).resolve().parents[1])


def _is_ours(filename: str) -> bool:
    """A frame between the user and us: the runtime's own, or the import system's."""
    if filename.startswith("<frozen importlib") or filename == importlib.__file__:
        return True
    return filename.startswith((_OURS + "/cli/", _OURS + "/api/"))


def users_traceback(error: BaseException) -> str:
    """The traceback from the first line of the user's on."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
