"""The file of `serve deploy`: applications by import path, with options that override those in the code. Ray's schema.

Read and checked as a whole before anything is imported or sent; every message names the file and the line. What it
cannot mean here is refused unless it says nothing (Ray's defaults, as `serve build` writes them). Next stop:
serve_rt.cli.config_file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from serve_rt.config.options import AppLimits, HTTPOptions
from serve_rt.config.yaml_lines import Document, Path, read_yaml

MAX_APPLICATIONS = 200
CLUSTER_KEYS = (
    "proxy_location", "http_options", "grpc_options", "controller_options", "logging_config", "tracing_config",
)  # fmt: skip
"""Of the whole cluster: `serve-agent` has flags for what has a meaning here."""
_LIMITS = ("request_timeout_s", "queue_timeout_s", "max_body_bytes")
_APPLICATION_KEYS = (
    "name", "route_prefix", "import_path", "runtime_env", "args", "logging_config", "autoscaling_policy",
    "external_scaler_enabled", "deployments",
    *_LIMITS,
)  # fmt: skip


@dataclass(frozen=True)
class AppConfig:
    """One application of the file; `path` leads to it in the document."""

    name: str
    import_path: str
    path: Path
    route_prefix: str | None = "/"
    args: Mapping[str, Any] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Deployment -> options."""
    autoscaling_policy: Mapping[str, Any] | None = None
    limits: AppLimits = field(default_factory=AppLimits)
    given: Mapping[str, Any] = field(default_factory=dict)
    """As it stands in the file."""


@dataclass(frozen=True)
class DeployConfig:
    document: Document
    applications: tuple[AppConfig, ...]
    target_capacity: float | None = None
    """In percent, of all applications of the file."""
    ignored: tuple[str, ...] = ()
    """Options of the whole cluster that the file gives."""
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """Their values."""


def read_config(text: str, source: str) -> DeployConfig:
    """*Errors*: ConfigError with the line of what is wrong."""
    document = read_yaml(text, source)
    root = _mapping(document, document.value, ())
    if "import_path" in root and "applications" not in root:
        raise document.error(
            ("import_path",),
            "a file of one application, as of Ray 2.6: put name, route_prefix, import_path, runtime_env, deployments "
            "into a list, `applications: [{...}]`, and host and port into `http_options:`.",
        )
    _known(document, root, (*CLUSTER_KEYS, "target_capacity", "applications"), ())
    if "applications" not in root:
        raise document.error((), "there is no `applications:` list.")
    entries = _list(document, root["applications"], ("applications",))
    if len(entries) > MAX_APPLICATIONS:
        raise document.error(("applications",), f"{len(entries)} applications; at most {MAX_APPLICATIONS} fit.")
    applications = tuple(_application(document, one, ("applications", index)) for index, one in enumerate(entries))
    _unique(document, ((app.name, (*app.path, "name")) for app in applications), "application name")
    prefixes = [(app.route_prefix, (*app.path, "route_prefix")) for app in applications if app.route_prefix is not None]
    _unique(document, prefixes, "route_prefix")
    ignored = tuple(key for key in CLUSTER_KEYS if root.get(key) is not None)
    http = _mapping(document, root.get("http_options") or {}, ("http_options",))
    _known(document, http, [one.name for one in fields(HTTPOptions)], ("http_options",))
    return DeployConfig(
        document,
        applications,
        _capacity(document, root.get("target_capacity")),
        ignored,
        {key: root[key] for key in ignored},
    )


def _capacity(document: Document, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise document.error(("target_capacity",), f"must be a percentage from 0 to 100, got {value!r:.60}.")
    return float(value)


def _application(document: Document, value: Any, path: Path) -> AppConfig:
    entry = _mapping(document, value, path)
    _known(document, entry, _APPLICATION_KEYS, path)
    if entry.get("logging_config"):
        where = (*path, "logging_config")
        raise document.error(where, "is not supported for a whole application; give it to its deployments.")
    if entry.get("external_scaler_enabled"):
        where = (*path, "external_scaler_enabled")
        raise document.error(where, "is not supported: deploy another num_replicas, or give an autoscaling_policy.")
    return AppConfig(
        name=_text(document, entry.get("name", "default"), (*path, "name")),
        import_path=_import_path(document, entry, path),
        path=path,
        route_prefix=_prefix(document, entry.get("route_prefix", "/"), (*path, "route_prefix")),
        args=_mapping(document, entry.get("args") or {}, (*path, "args")),
        runtime_env=_mapping(document, entry.get("runtime_env") or {}, (*path, "runtime_env")),
        overrides=_overrides(document, entry.get("deployments") or [], (*path, "deployments")),
        autoscaling_policy=_policy(document, entry.get("autoscaling_policy"), (*path, "autoscaling_policy")),
        limits=_limits(document, entry, path),
        given=entry,
    )


def _limits(document: Document, entry: Mapping[str, Any], path: Path) -> AppLimits:
    limits = AppLimits()
    for name in _LIMITS:
        try:
            limits = replace(limits, **{name: entry.get(name)})
        except (TypeError, ValueError) as error:
            raise document.error((*path, name), str(error)) from error
    return limits


def _policy(document: Document, value: Any, path: Path) -> Mapping[str, Any] | None:
    if not value:
        return None
    policy = _mapping(document, value, path)
    _known(document, policy, ("policy_function", "policy_kwargs"), path)
    _text(document, policy.get("policy_function"), (*path, "policy_function"))
    _mapping(document, policy.get("policy_kwargs") or {}, (*path, "policy_kwargs"))
    return policy


def _import_path(document: Document, entry: Mapping[str, Any], path: Path) -> str:
    if "import_path" not in entry:
        raise document.error(path, "has no import_path, as in `import_path: module:app`.")
    text = _text(document, entry["import_path"], (*path, "import_path"))
    module, colon, name = text.partition(":") if ":" in text else text.rpartition(".")
    if not (module and colon and name):
        raise document.error((*path, "import_path"), f"{text!r} is not of the form module:name.")
    return f"{module}:{name}"


def _prefix(document: Document, value: Any, path: Path) -> str | None:
    if value is None:
        return None
    text = _text(document, value, path)
    if not text.startswith("/") or (text != "/" and text.endswith("/")) or "{" in text or "}" in text:
        raise document.error(path, f"{text!r} must start with '/', not end with one, and have no wildcards.")
    return text


def _overrides(document: Document, value: Any, path: Path) -> dict[str, Mapping[str, Any]]:
    overrides: dict[str, Mapping[str, Any]] = {}
    for index, one in enumerate(_list(document, value, path)):
        at: Path = (*path, index)
        entry = _mapping(document, one, at)
        if "name" not in entry:
            raise document.error(at, "has no name.")
        name = _text(document, entry["name"], (*at, "name"))
        if name in overrides:
            raise document.error((*at, "name"), f"deployment {name!r} is given twice.")
        overrides[name] = {key: option for key, option in entry.items() if key != "name"}
    return overrides


# --- small checks ---------------------------------------------------------------------------------------------------


def _mapping(document: Document, value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise document.error(path, f"must be a mapping, got {value!r:.60}.")
    return value


def _list(document: Document, value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise document.error(path, f"must be a list, got {value!r:.60}.")
    return value


def _text(document: Document, value: Any, path: Path) -> str:
    if not isinstance(value, str) or not value:
        raise document.error(path, f"must be a text that is not empty, got {value!r:.60}.")
    return value


def _known(document: Document, entry: Mapping[str, Any], known: Iterable[str], path: Path) -> None:
    known = tuple(known)
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise document.error((*path, key), f"is no known key. {hint}")


def _unique(document: Document, found: Iterable[tuple[str, Path]], what: str) -> None:
    seen: set[str] = set()
    for value, path in found:
        if value in seen:
            raise document.error(path, f"{what} {value!r} is used by two applications.")
        seen.add(value)
