"""What to run: from `module:name` and KEY=VALUE arguments to an Application.

Imports the user's program; what it raises is shown as the user's traceback, from the first line that is not ours.
Called by `serve run`, `serve deploy` and `serve build`.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_rt.errors import ServeException
from serve_rt.ray_names import advise

if TYPE_CHECKING:
    from serve_rt.api.deployment import Application


class ImportFailed(Exception):
    """The user's module or builder raised; the text is the user's traceback."""


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
    advise(error)
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
