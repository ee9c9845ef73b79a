"""The `serve` command against the shared cluster, called in this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import serve_rt as serve
from serve_rt.cli.main import main
from tests.conformance.apps_basic import Inner, Outer
from tests.conformance.asking import Cluster, call
from tests.conformance.bullets import covers

FILE = """
http_options: {request_timeout_s: 30}
applications:
- name: filed
  route_prefix: /filed
  import_path: tests.conformance.apps_basic:outer_builder
  args: {label: from a file}
  deployments:
  - name: Outer
    num_replicas: auto
    max_ongoing_requests: 7
    ray_actor_options: {num_cpus: 0.01}
"""


@pytest.fixture(scope="module", autouse=True)
def app(cluster: Cluster) -> Iterator[None]:
    serve.run(Outer.bind(Inner.bind(1), label="cli"), name="cli", route_prefix="/cli")
    yield
    serve.delete("cli", _blocking=False)


def told(*words: str, code: int = 0, answers: str | None = None) -> Result:
    result = CliRunner().invoke(main, list(words), input=answers)
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


@covers("8.1-01")
def test_status() -> None:
    shown: dict[str, Any] = yaml.safe_load(told("status").stdout)
    assert list(shown) == ["proxies", "applications", "target_capacity"]
    mine = shown["applications"]["cli"]
    assert list(mine)[:4] == ["status", "message", "last_deployed_time_s", "deployments"]
    assert mine["status"] == "RUNNING" and set(shown["proxies"].values()) == {"HEALTHY"}
    outer = mine["deployments"]["Outer"]
    assert outer == {
        "status": "HEALTHY",
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "replica_states": {"RUNNING": 1},
        "message": "",
    }
    assert yaml.safe_load(told("status", "-n", "cli").stdout) == mine
    assert "nobody" in told("status", "--name", "nobody", code=1).output


@covers("8.1-03", "8.2-02", "8.1-04")
def test_a_file_goes_in_and_comes_out(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(FILE)
    assert "Sent deploy request successfully" in told("deploy", str(tmp_path / "app.yaml")).output
    shown = yaml.safe_load(told("config", "-n", "filed").output)
    assert shown["name"] == "filed" and shown["args"] == {"label": "from a file"}
    assert shown["deployments"][0]["num_replicas"] == "auto"
    assert call("filed", "numbers")["label"] == "from a file"
    assert call("filed", "numbers")["max_ongoing"] == 7
    wrong = FILE.replace("- name: Outer", "- name: Oter")
    (tmp_path / "wrong.yaml").write_text(wrong)
    refused = told("deploy", str(tmp_path / "wrong.yaml"), code=1).output
    assert "Oter" in refused and "Outer" in refused
    assert "Deleted application 'filed'" in told("delete", "filed").output
    assert "filed" not in serve.status().applications


@covers("8.1-03")
def test_build(tmp_path: Path) -> None:
    target = tmp_path / "built.yaml"
    told("build", "tests.conformance.apps_basic:outer", "-o", str(target))
    built = yaml.safe_load(target.read_text())["applications"]
    assert [(one["name"], one["route_prefix"]) for one in built] == [("app1", "/")]
    assert built[0]["import_path"] == "tests.conformance.apps_basic:outer"
    assert {one["name"] for one in built[0]["deployments"]} == {"Outer"}


@covers("8.1-02")
def test_run_refuses() -> None:
    """What is refused before anything starts, here; the rest in a process of its own: it closes its session."""
    assert "Invalid application argument 'label', must be of the form" in told("run", "a.b:c", "label", code=1).output
    assert "Did you mean" in told("run", "a.b:c", "--route-prefx", "/", code=2).output
    command = [sys.executable, "-m", "serve_rt.cli.main", "run", "tests.conformance.apps_basic:outer", "a=b"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "is an application, not a function that builds one" in done.stderr


@covers("8.1-04")
def test_shutdown_asks_first(cluster: Cluster) -> None:
    told("shutdown", code=1, answers="n\n")
    assert cluster.get("/cli").status == 200


@covers("8.1-05")
def test_words_that_nobody_knows() -> None:
    assert "status" in told("statsu", code=2).output
    assert "--name" in told("status", "--nam", "x", code=2).output


@covers("8.1-06")
@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (("start",), "`serve-agent` starts a node"),
        (("controller-health",), "`serve nodes`"),
        (("run", "a:b", "--working-dir", "."), "--app-dir"),
        (("deploy", "a.yaml", "--runtime-env-json", "{}"), "ray_actor_options"),
    ],
)
def test_words_of_ray(words: tuple[str, ...], instead: str) -> None:
    assert instead in told(*words, code=2).output


@covers("8.2-01", "8.2-03")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("request_timeout_s", "request_timout_s"), "Did you mean 'request_timeout_s'"),
        (("route_prefix", "route_prefx"), "Did you mean 'route_prefix'"),
        (("num_replicas", "num_replica"), "Did you mean 'num_replicas'"),
        (("max_ongoing_requests: 7", "max_ongoing_requests: many"), "max_ongoing_requests"),
        (("tests.conformance.apps_basic:outer_builder", "outer_builder"), "import_path"),
        (("args: {", "import_path: a:b\n- name: filed\n  import_path: c:d\n  args: {"), ""),
        (("applications:", "applications:\n- name: other\n  route_prefix: /filed\n  import_path: a:b"), "/filed"),
    ],
)
def test_files_that_are_wrong(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(FILE.replace(*change))
    output = told("deploy", str(tmp_path / "wrong.yaml"), code=1).output
    assert words in output and "wrong.yaml:" in output, output
