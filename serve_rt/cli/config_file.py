"""`serve deploy`, `serve config`, `serve build`: applications from a YAML file.

The file is read and checked as a whole, everything it names is imported and built here, and only then one request asks
for all of it: what is wrong anywhere leaves the cluster as it is.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_rt.cli.connection import connect
from serve_rt.cli.loading import ImportFailed, check_import_path, load, parse_arguments
from serve_rt.config.app_config import AppConfig, DeployConfig, read_config
from serve_rt.config.yaml_lines import MAX_BYTES
from serve_rt.errors import ConfigError, NotFoundError, ServeException

if TYPE_CHECKING:
    from serve_rt.api.build import Built
    from serve_rt.api.deployment import Application
    from serve_rt.api.session import Session

SENT = (
    "Sent deploy request successfully.\n"
    " * Use `serve status` to check applications' statuses.\n"
    " * Use `serve config` to see the current application config(s)."
)


def deploy_command(
    config_or_import_path: str,
    arguments: tuple[str, ...],
    app_dir: str,
    name: str | None,
    address: str | None,
    state_dir: Path | None,
) -> None:
    if not config_or_import_path.endswith((".yaml", ".yml")):
        _deploy_one(config_or_import_path, arguments, app_dir, name, address, state_dir)
        return
    if arguments or name is not None:
        raise click.UsageError("KEY=VALUE arguments and --name go into the file: `args:` and `name:`.")
    config = read_file(config_or_import_path)
    built = build_all(config, Path(app_dir))
    for key in config.ignored:
        click.echo(f"# {key} is not applied: {NOT_APPLIED.get(key, OF_THE_NODES)}.", err=True)
    deploy_all(connect(address, state_dir), built)
    click.echo(SENT)


OF_THE_NODES = "it belongs to the nodes, see the flags of `serve-agent`"
NOT_APPLIED = {
    "grpc_options": "there is no gRPC ingress: serve HTTP, or call the applications with handles",
    "logging_config": "give it to the deployments; `serve-agent --log-level` is the nodes' own",
}


def deploy_all(session: Session, built: Sequence[Built]) -> None:
    """All of them in one request, and without what an earlier file had and this one has not."""
    running = session.run(session.client.status()).applications
    listed = {one.spec.name for one in built}
    gone = sorted(app for app, overview in running.items() if overview.config_json and app not in listed)
    for one in built:
        session.run(session.client.put_blobs(one.blobs))
    if built:
        session.run(session.client.deploy_together([one.spec for one in built], gone))
    else:
        for app in gone:
            session.run(session.client.delete(app, uuid.uuid4().hex))


def _deploy_one(
    import_path: str,
    arguments: tuple[str, ...],
    app_dir: str,
    name: str | None,
    address: str | None,
    state_dir: Path | None,
) -> None:
    check_import_path(import_path)
    given = parse_arguments(arguments)
    entry = {"name": name or "default", "import_path": import_path, **({"args": given} if given else {})}
    with _told():
        app = AppConfig(name or "default", import_path, path=(), given=entry)
        one = _build_one(load(import_path, given, Path(app_dir)), app, app_dir)
    session = connect(address, state_dir)
    session.run(session.client.put_blobs(one.blobs))
    session.run(session.client.deploy(one.spec))
    click.echo(SENT)


def read_file(path: str) -> DeployConfig:
    """*Errors*: ConfigError with the line of what is wrong."""
    return read_config(_read(Path(path)), path)


def _read(path: Path) -> str:
    """*Errors*: ConfigError when it cannot be read, or is far too long to be a configuration."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes; a configuration may have at most {MAX_BYTES}.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def build_all(config: DeployConfig, app_dir: Path) -> list[Built]:
    """*Errors*: ConfigError with the line in the file; ClickException with the user's traceback."""
    built = []
    for app in config.applications:
        with _told():
            try:
                application = load(app.import_path, dict(app.args), app_dir)
                built.append(_build_one(application, app, str(app_dir), config.target_capacity))
            except (ServeException, TypeError, ValueError) as error:
                raise config.document.error(_place(app, str(error)), str(error)) from error
    return built


def _place(app: AppConfig, message: str) -> tuple[str | int, ...]:
    """The deployment, and the option, that the message speaks of, as far as it says so."""
    entries = app.given.get("deployments") or []
    for index, (name, options) in enumerate(app.overrides.items()):
        if not entries or (f"'{name}'" not in message and len(entries) > 1 and not any(o in message for o in options)):
            continue
        key = next((option for option in options if option in message), "name")
        return (*app.path, "deployments", index, key)
    return (*app.path, "import_path")


def _build_one(application: Application, app: AppConfig, app_dir: str, capacity: float | None = None) -> Built:
    from serve_rt.api.build import AppOptions, build
    from serve_rt.api.graph import flatten
    from serve_rt.api.targets import prefix_of
    from serve_rt.config.options import AutoscalingPolicy

    names = [bound.name for bound in flatten(application, app.name).deployments]
    overrides = {name: dict(app.overrides.get(name, {})) for name in {*names, *app.overrides}}
    if app.runtime_env:
        bound = {one.name: one.deployment for one in flatten(application, app.name).deployments}
        for name in names:
            own = overrides[name].get("ray_actor_options", bound[name].given.get("ray_actor_options"))
            overrides[name]["ray_actor_options"] = _with_env(own or {}, app.runtime_env)
    options = AppOptions(
        app.name,
        prefix_of(application, app.route_prefix),
        deploy_id=uuid.uuid4().hex,
        import_path=app.import_path,
        code_root=Path(app_dir),
        target_capacity=capacity,
        limits=app.limits,
        autoscaling_policy=AutoscalingPolicy(**app.autoscaling_policy) if app.autoscaling_policy else None,
        overrides={name: options for name, options in overrides.items() if options or name not in names},
        config_json=json.dumps(app.given, default=str),
    )
    return build(application, options)


def _with_env(options: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    """The deployment's own environment over the application's, variable by variable."""
    own = options.get("runtime_env") or {}
    variables = {**(env.get("env_vars") or {}), **(own.get("env_vars") or {})}
    return {**options, "runtime_env": {**env, **own, **({"env_vars": variables} if variables else {})}}


@contextmanager
def _told() -> Iterator[None]:
    """What the user's module raised is shown as it is."""
    try:
        yield
    except ImportFailed as failed:
        raise click.ClickException(str(failed)) from failed


def print_config(address: str | None, state_dir: Path | None, name: str | None) -> None:
    """*Errors*: NotFoundError for an application that is not there."""
    import yaml

    session = connect(address, state_dir)
    applications = session.run(session.client.status()).applications
    if name is not None and name not in applications:
        raise NotFoundError(f"There is no application {name!r}.")
    shown = [overview for app, overview in applications.items() if overview.config_json and name in (None, app)]
    if not shown:
        click.echo("No configuration was found.")
        return
    texts = [yaml.safe_dump(json.loads(one.config_json), sort_keys=False, allow_unicode=True) for one in shown]
    click.echo("\n---\n\n".join(texts), nl=False)


# --- build ----------------------------------------------------------------------------------------------------------


def build_command(import_paths: tuple[str, ...], app_dir: str, output_path: Path | None) -> None:
    """*Errors*: ServeException for what cannot be imported."""
    import yaml

    entries = []
    for index, import_path in enumerate(import_paths, 1):
        check_import_path(import_path)
        with _told():
            application = load(import_path, {}, Path(app_dir))
        prefix = "/" if len(import_paths) == 1 else f"/app{index}"
        entries.append(_entry(application, f"app{index}", prefix, import_path))
    document = {"proxy_location": "EveryNode", "applications": entries}
    text = "# Made by `serve build`: the options as they stand in the code. Deploy it with `serve deploy`.\n\n"
    text += yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    read_config(text, str(output_path or "the built configuration"))  # what we write, we can read
    if output_path is None:
        click.echo(text, nl=False)
    else:
        output_path.write_text(text, encoding="utf-8")


def _entry(application: Application, name: str, prefix: str, import_path: str) -> dict[str, Any]:
    from serve_rt.api.graph import flatten

    deployments = [
        {"name": bound.name, **{key: _plain(value) for key, value in bound.deployment.given.items() if key != "name"}}
        for bound in flatten(application, name).deployments
    ]
    return {"name": name, "route_prefix": prefix, "import_path": import_path, "deployments": deployments}


def _plain(value: Any) -> Any:
    """Options as YAML takes them."""
    from dataclasses import asdict, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
