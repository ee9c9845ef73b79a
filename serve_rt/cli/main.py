"""The `serve` command: run, deploy, status, history, rollback, scale, delete, shutdown, nodes, drain, logs and others.

Only click is imported here; each verb loads what it needs, so `serve --help` is quick and `serve run` can start the
cluster before anything else. What a user can mend is told in a sentence and an exit code, never with our stack trace.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
MOST_REPLICAS = 100_000
"""More is a typing error."""


_OF_RAY = {
    "start": "`serve-agent` starts a node; `serve run`, and programs that call serve.run, start one of their own.",
    "controller-health": "`serve nodes` shows the cluster, `/-/metrics` on the leader's node what its controller does.",
    "--working-dir": "The folder of --app-dir travels to the replicas.",
    "--runtime-env": "Environment variables stand with a deployment: ray_actor_options, runtime_env, env_vars.",
    "--runtime-env-json": "Environment variables stand with a deployment: ray_actor_options, runtime_env, env_vars.",
    "--grpc-port": "There is no gRPC ingress.",
    "--grpc-servicer-functions": "There is no gRPC ingress.",
}
"""Verbs and options of Ray's command that are not here: what to do instead."""


class _Verbs(click.Group):
    """A group that names the nearest verb for a mistyped one, and tells our errors in one sentence."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands, 1)
            hint = _OF_RAY.get(args[0]) or (f"Did you mean {near[0]!r}?" if near else "")
            ctx.fail(f"No such command {args[0]!r}. {hint}".rstrip())
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from serve_rt.errors import ServeException

        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name not in _OF_RAY:
                raise
            raise click.UsageError(
                f"No such option {error.option_name!r}. {_OF_RAY[error.option_name]}", error.ctx
            ) from error
        except ServeException as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Deploy Python models and see how they do."""


def _address(function: F) -> F:
    text = "host:port of any agent  [default: $SERVE_ADDRESS, else this machine's own]"
    return click.option("--address", "-a", default=None, help=text)(function)


def _state_dir(function: F) -> F:
    text = "of this machine's agent  [default: $SERVE_STATE_DIR, else in your home]"
    return click.option("--state-dir", type=click.Path(path_type=Path), default=None, help=text)(function)


@main.command(context_settings={"ignore_unknown_options": False})
@click.argument("import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--name", default="default", show_default=True, help="of the application")
@click.option("--route-prefix", default="/", show_default=True, help="its URL path")
@click.option("--app-dir", "-d", default=".", show_default=True, help="where to import from; travels to the replicas")
@click.option("--blocking/--non-blocking", default=True, show_default=True, help="stay, and stop it all at Ctrl-C")
@click.option("--reload", "-r", is_flag=True, help="deploy again when a file below --app-dir changes")
@_address
@click.option("--http-host", default=None, help="of the cluster it starts  [default: 127.0.0.1]")
@click.option("--http-port", type=click.IntRange(0, 65535), default=None, help="[default: 8000]")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="of the agent  [default: any free one]")
@click.option("--num-cpus", type=float, default=None, help="of the cluster it starts")
@click.option("--num-gpus", type=int, default=None, help="declares GPUs where there are none")
@_state_dir
def run(**options: Any) -> None:  # Any: one per option, typed by click
    """Run an application, IMPORT_PATH being module:name of an Application or of a function that builds one; or, as
    `serve deploy` does, all those of a YAML file.

    Starts a cluster when none runs; Ctrl-C then stops everything it started.
    """
    from serve_rt.cli.run import RunOptions, run_application

    sys.exit(run_application(RunOptions(**options)))


@main.command()
@click.argument("config_or_import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--app-dir", "-d", default=".", show_default=True, help="where to import from; travels to the replicas")
@click.option("--name", default=None, help="of the application, with an import path  [default: default]")
@_address
@_state_dir
def deploy(**options: Any) -> None:  # Any: one per option, typed by click
    """Deploy the applications of a YAML file, all or none, and delete those that an earlier file had and this one has
    not; or one application by its import path. Does not wait: see `serve status`."""
    from serve_rt.cli.config_file import deploy_command

    deploy_command(**options)


@main.command()
@_address
@_state_dir
@click.option("--name", "-n", default=None, help="of one application")
def config(address: str | None, state_dir: Path | None, name: str | None) -> None:
    """Show the configuration that the applications were deployed with."""
    from serve_rt.cli.config_file import print_config

    print_config(address, state_dir, name)


@main.command()
@click.argument("import_paths", nargs=-1, required=True)
@click.option("--app-dir", "-d", default=".", show_default=True, help="where to import from")
@click.option("--output-path", "-o", type=click.Path(path_type=Path), default=None, help="[default: the terminal]")
def build(import_paths: tuple[str, ...], app_dir: str, output_path: Path | None) -> None:
    """Write a YAML file for `serve deploy` with the applications at IMPORT_PATHS and the options in their code."""
    from serve_rt.cli.config_file import build_command

    build_command(import_paths, app_dir, output_path)


@main.command()
@_address
@_state_dir
@click.option("--name", "-n", default=None, help="of one application")
def status(address: str | None, state_dir: Path | None, name: str | None) -> None:
    """Show applications, deployments and proxies as YAML."""
    from serve_rt.cli.show import print_status

    print_status(address, state_dir, name)


@main.command()
@click.argument("app")
@_address
@_state_dir
def delete(app: str, address: str | None, state_dir: Path | None) -> None:
    """Delete the application APP and wait until it is gone."""
    from serve_rt.cli.change import delete_application

    delete_application(app, address, state_dir)


@main.command()
@click.argument("app")
@_address
@_state_dir
def history(app: str, address: str | None, state_dir: Path | None) -> None:
    """Show the last versions of the application APP, and which of them answers."""
    from serve_rt.cli.versions import print_history

    print_history(app, address, state_dir)


@main.command()
@click.argument("app")
@click.option("--to", "to_version", type=click.IntRange(1), default=None, help="[default: the good one before]")
@_address
@_state_dir
def rollback(app: str, to_version: int | None, address: str | None, state_dir: Path | None) -> None:
    """Deploy a former version of the application APP again, and wait until it runs."""
    from serve_rt.cli.versions import roll_back

    roll_back(app, to_version, address, state_dir)


@main.command()
@click.argument("app")
@click.argument("deployment")
@click.argument("num_replicas", type=click.IntRange(0, MOST_REPLICAS))
@_address
@_state_dir
def scale(app: str, deployment: str, num_replicas: int, address: str | None, state_dir: Path | None) -> None:
    """Give DEPLOYMENT of the application APP another fixed number of replicas, until it is deployed again. Restarts
    nothing and does not wait: see `serve status`."""
    from serve_rt.cli.change import scale_deployment

    scale_deployment(app, deployment, num_replicas, address, state_dir)


@main.command()
@_address
@_state_dir
@click.option("--yes", "-y", is_flag=True, help="do not ask")
def shutdown(address: str | None, state_dir: Path | None, yes: bool) -> None:
    """Delete all applications; stop the cluster too when a program started it. `serve-agent stop` ends a node."""
    from serve_rt.cli.change import shut_down

    shut_down(address, state_dir, ask=not yes)


@main.group(invoke_without_command=True)
@_address
@_state_dir
@click.pass_context
def nodes(ctx: click.Context, address: str | None, state_dir: Path | None) -> None:
    """Show nodes, their resources, and which replica holds what part of which GPU."""
    if ctx.invoked_subcommand is None:
        from serve_rt.cli.show import print_nodes

        print_nodes(address, state_dir)


@nodes.command()
@click.argument("node")
@_address
@_state_dir
def forget(node: str, address: str | None, state_dir: Path | None) -> None:
    """Give up NODE, which is lost and will not come back: its replicas are replaced at once."""
    from serve_rt.cli.operate import forget_node

    forget_node(node, address, state_dir)


@main.command()
@click.argument("node")
@click.option("--timeout-s", type=click.FloatRange(0), default=600.0, show_default=True, help="0: do not wait")
@_address
@_state_dir
def drain(node: str, timeout_s: float, address: str | None, state_dir: Path | None) -> None:
    """Empty NODE: each of its replicas goes once another one answers elsewhere. Waits until the last is gone."""
    from serve_rt.cli.operate import drain_node

    drain_node(node, timeout_s, address, state_dir)


@main.command()
@click.argument("node")
@_address
@_state_dir
def cordon(node: str, address: str | None, state_dir: Path | None) -> None:
    """Place no further replica on NODE; those that run there go on."""
    from serve_rt.cli.operate import mark_node

    mark_node(node, "cordoned", address, state_dir)


@main.command()
@click.argument("node")
@_address
@_state_dir
def uncordon(node: str, address: str | None, state_dir: Path | None) -> None:
    """Take back a cordon or a drain of NODE."""
    from serve_rt.cli.operate import mark_node

    mark_node(node, "schedulable", address, state_dir)


@main.command()
@click.argument("app", required=False, default="")
@click.option("--dry-run", is_flag=True, help="the only way there is: the autoscaler acts by itself")
@_address
@_state_dir
def autoscale(app: str, dry_run: bool, address: str | None, state_dir: Path | None) -> None:
    """Show what the autoscaler sees of APP (of all without it), what it would do, when and why."""
    if not dry_run:
        raise click.UsageError("say --dry-run: the autoscaler acts by itself, this shows what it would do.")
    from serve_rt.cli.operate import print_autoscaling

    print_autoscaling(app, address, state_dir)


@main.command()
@click.argument("app", required=False, default="")
@click.option("--replica", default="", help="the first letters of the last part of a replica's id")
@click.option("--tail", type=click.IntRange(0), default=100, show_default=True, help="last lines of each replica")
@click.option("--follow", "-f", is_flag=True, help="go on until Ctrl-C")
@_address
@_state_dir
def logs(app: str, replica: str, tail: int, follow: bool, address: str | None, state_dir: Path | None) -> None:
    """Show what the replicas of APP (of all applications without it) have logged."""
    from serve_rt.cli.show import print_logs

    print_logs(app, replica, tail, follow, address, state_dir)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="to listen at")
@click.option("--port", type=click.IntRange(0, 65535), default=8265, show_default=True, help="0: any free one")
@click.option("--insecure", is_flag=True, help="let others than this machine's users look: there is no password")
@_address
@_state_dir
def dashboard(host: str, port: int, insecure: bool, address: str | None, state_dir: Path | None) -> None:
    """Show the cluster on a web page, with plots of its last minutes, until Ctrl-C. Changes nothing."""
    from serve_rt.cli.dashboard import show_dashboard

    show_dashboard(host, port, insecure, address, state_dir)


if __name__ == "__main__":
    main()
