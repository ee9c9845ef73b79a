"""The `serve` command without a cluster: what it refuses, in whose words, with which exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from serve_rt.cli.loading import ImportFailed, load, parse_arguments
from serve_rt.cli.main import main
from serve_rt.cli.show import nodes_table, replicas_table, status_yaml
from serve_rt.controller.status import build_nodes
from serve_rt.errors import ServeException
from serve_rt.model.ids import NodeId
from serve_rt.model.node import NodeMark
from serve_rt.model.status import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    NodeOverview,
    NodesOverview,
    ProxyStatus,
    ReplicaOverview,
    ServeStatus,
)
from tests.controller.world import World, node_record


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def _write(folder: Path, name: str, text: str) -> str:
    module = f"{name}_{abs(hash(folder)) % 10**8}"
    (folder / f"{module}.py").write_text(text)
    return module


def test_the_users_traceback_and_not_ours(app_dir: Path) -> None:
    module = _write(app_dir, "broken", "def inner():\n    return 1 / 0\n\ninner()\n")
    with pytest.raises(ImportFailed) as failed:
        load(f"{module}:app", {}, app_dir)
    text = str(failed.value)
    assert f"{module}.py" in text and "return 1 / 0" in text and "ZeroDivisionError" in text
    assert "serve_rt" not in text and "importlib" not in text


def test_an_import_inside_the_users_module_that_fails(app_dir: Path) -> None:
    module = _write(app_dir, "needs", "import no_such_package_of_mine\n")
    with pytest.raises(ImportFailed, match="no_such_package_of_mine"):
        load(f"{module}:app", {}, app_dir)


@pytest.mark.parametrize(
    ("text", "attribute", "message"),
    [
        ("x = 1\n", "app", "no attribute 'app'. It has no application"),
        (
            "import serve_rt as serve\n@serve.deployment\nclass A: pass\nmine = A.bind()\n",
            "app",
            "It has the applications mine",
        ),
        ("app = 3\n", "app", "is a int, not an Application"),
        ("import serve_rt as serve\n@serve.deployment\nclass app: pass\n", "app", "give it .bind"),
    ],
)
def test_what_is_no_application(app_dir: Path, text: str, attribute: str, message: str) -> None:
    module = _write(app_dir, "wrong", text)
    with pytest.raises(ServeException, match=message):
        load(f"{module}:{attribute}", {}, app_dir)


BUILDER = """
import dataclasses
import serve_rt as serve

@serve.deployment
class A:
    def __init__(self, size): pass

def plain(args: dict): return A.bind(args["size"])

@dataclasses.dataclass
class Args:
    size: str

def typed(args: Args): return A.bind(args.size)
def two(a, b): return A.bind(a)
def nothing(args): return 3
def breaks(args): return A.bind(args["missing"])
"""


def test_builders(app_dir: Path) -> None:
    module = _write(app_dir, "builder", BUILDER)
    for name in ("plain", "typed"):
        assert load(f"{module}:{name}", {"size": "7"}, app_dir).deployment.init_args == ("7",)
    with pytest.raises(TypeError, match="exactly one parameter"):
        load(f"{module}:two", {}, app_dir)
    with pytest.raises(TypeError, match="must return an `Application`"):
        load(f"{module}:nothing", {}, app_dir)
    with pytest.raises(ImportFailed, match="KeyError: 'missing'"):
        load(f"{module}:breaks", {}, app_dir)


def test_arguments() -> None:
    assert parse_arguments(("a=1", "b=x=y")) == {"a": "1", "b": "x=y"}
    with pytest.raises(ServeException, match="Invalid application argument 'x', must be of the form '<key>=<val>'"):
        parse_arguments(("x",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statsu"], "Did you mean 'status'"),
        (["run", "--nmae", "x", "a:b"], "--name"),
        (["run", "module"], "is not of the form module:name"),
        (["run", "app.py"], "Did you mean app:app"),
        (["status"], "There is no Serve instance running"),
        (["delete", "x"], "There is no Serve instance running"),
        (["nodes"], "There is no Serve instance running"),
        (["shutdown", "-y"], "There is no Serve instance running"),
        (["logs"], "There is no Serve instance running"),
        (["status", "--address", "nonsense"], "not host:port"),
    ],
)
def test_mistakes_are_told_and_the_exit_code_is_not_zero(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("SERVE_ADDRESS", raising=False)
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code != 0
    assert message in ended.output
    assert "Traceback" not in ended.output


def test_status_reads_like_rays() -> None:
    one = DeploymentStatusOverview(
        DeploymentStatus.HEALTHY, DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED, {"RUNNING": 1}
    )
    app = ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 1694041157.25, {"Translator": one})
    status = ServeStatus({"node-1": ProxyStatus.HEALTHY}, {"default": app})
    assert status_yaml(status) == (
        "proxies:\n"
        "  node-1: HEALTHY\n"
        "applications:\n"
        "  default:\n"
        "    status: RUNNING\n"
        "    message: ''\n"
        "    last_deployed_time_s: 1694041157.25\n"
        "    deployments:\n"
        "      Translator:\n"
        "        status: HEALTHY\n"
        "        status_trigger: CONFIG_UPDATE_COMPLETED\n"
        "        replica_states:\n"
        "          RUNNING: 1\n"
        "        message: ''\n"
        "target_capacity: null\n"
    )
    assert status_yaml(status, "default").startswith("status: RUNNING\n")
    with pytest.raises(ServeException, match="no application 'x'"):
        status_yaml(status, "x")


def test_a_traceback_in_the_status_can_be_read() -> None:
    message = "Traceback (most recent call last):\n  File x, line 1\nValueError: no"
    text = status_yaml(ServeStatus({}, {"a": ApplicationStatusOverview(ApplicationStatus.DEPLOY_FAILED, message)}))
    assert "    message: |-\n      Traceback (most recent call last):\n        File x, line 1\n" in text
    assert yaml.safe_load(text)["applications"]["a"]["message"] == message


def test_nodes_show_who_holds_what() -> None:
    from rich.console import Console

    replica = ReplicaOverview(
        "app#Chat#abc", "RUNNING", 2, 4711, 1000, {"GPU-12345678-aaaa": 500}, "line one\nlast", "h:1"
    )
    node = NodeOverview(
        "n1", "h:7300", True, "schedulable", 4000, 8 << 30, ("GPU-12345678-aaaa",), {"zone": "a"}, "warm", (replica,)
    )
    console = Console(width=200, record=True)
    overview = NodesOverview((node,))
    console.print(nodes_table(overview), replicas_table(overview))
    text = console.export_text()
    for part in ("1/4", "8.0 GiB", "0.5 used", "warm", "zone=a", "app#Chat#abc", "4711", "0.5 of GPU-12345678", "last"):
        assert part in text, part


def test_a_mark_is_shown_when_the_lease_is_gone() -> None:
    from rich.console import Console

    world = World()
    world.add_node(node_record("a"))
    world.mark(NodeId("a"), NodeMark.DRAINING)
    world.lose("a")
    console = Console(width=200, record=True)
    console.print(nodes_table(build_nodes(world.cluster)))
    assert "LOST, draining" in console.export_text()


def test_help_loads_little() -> None:
    code = (
        "import sys\nfrom serve_rt.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'grpc', 'rich', 'starlette', 'yaml', 'cloudpickle', 'uvloop', 'msgspec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "run" in ended.stdout


def test_before_the_agent_is_started_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys\nimport serve_rt.cli.run\n"
        "heavy = {'grpc', 'rich', 'starlette', 'yaml', 'cloudpickle', 'google.protobuf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
