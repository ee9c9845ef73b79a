"""Configuration files: what is wrong is told with its line, before anything is imported or sent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from serve_rt.cli.config_file import build_all, build_command
from serve_rt.cli.main import main
from serve_rt.config.app_config import MAX_APPLICATIONS, read_config
from serve_rt.config.yaml_lines import MAX_BYTES, read_yaml
from serve_rt.errors import ConfigError

MODULE = """
import serve_rt as serve

@serve.deployment(num_replicas=2, max_ongoing_requests=7)
class Inner:
    def __call__(self): return 1

@serve.deployment(ray_actor_options={"num_cpus": 0.5, "runtime_env": {"env_vars": {"A": "code"}}})
class Outer:
    def __init__(self, inner, word="none"): pass
    def __call__(self): return 1

app = Outer.bind(Inner.bind())

def builder(args: dict):
    return Outer.bind(Inner.bind(), word=args["word"])
"""


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"conf_{tmp_path.name}.py").write_text(MODULE)
    return tmp_path


def module(app_dir: Path) -> str:
    return f"conf_{app_dir.name}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("applications: [", ":1: this is not YAML"),
        ("a: b: c\n", ":1: this is not YAML"),
        ("applications:\n- name: x\n\timport_path: a:b\n", ":3: this is not YAML"),
        ("- 1\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("proxy_location: EveryNode\n", "there is no `applications:` list"),
        ("applications:\n  name: x\n", ":1: applications: must be a list"),
        ("host: 0.0.0.0\nimport_path: a:b\n", ":2: import_path: a file of one application, as of Ray 2.6"),
        ("applicatons: []\n", ":1: applicatons: is no known key. Did you mean 'applications'?"),
        ("applications:\n- nme: x\n", ":2: applications[0].nme: is no known key. Did you mean 'name'?"),
        ("applications:\n- name: x\n", ":2: applications[0]: has no import_path"),
        ("applications:\n- name: x\n  import_path: nothing\n", ":3: applications[0].import_path: 'nothing' is not"),
        ("applications:\n- import_path: 7\n", ":2: applications[0].import_path: must be a text"),
        ("applications:\n- import_path: a:b\n  route_prefix: x\n", ":3: applications[0].route_prefix: 'x' must start"),
        ("applications:\n- import_path: a:b\n- import_path: a:b\n", "application name 'default' is used by two"),
        (
            "applications:\n- {name: x, import_path: a:b}\n- {name: y, import_path: a:b}\n",
            "route_prefix '/' is used by two applications",
        ),
        ("applications:\n- import_path: a:b\n  import_path: c:d\n", ":3: applications[0].import_path is given twice"),
        (
            "applications:\n- import_path: a:b\n  deployments:\n  - num_replicas: 2\n",
            ":4: applications[0].deployments[0]",
        ),
        ("1: x\n", ":1: keys must be text"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(text, "app.yaml")
    assert str(refused.value).startswith("app.yaml") and words in str(refused.value)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x: " + "y" * (10 << 20), f"at most {MAX_BYTES}"),
        ("[" * 100_000, "deeper than"),
        ("- x\n" * 120_000, "more than"),
        (bomb(), "more than"),
        ("applications:\n" + "".join(f"- {{name: a{n}, import_path: m:a}}\n" for n in range(10_000)), "applications"),
    ],
    ids=["ten megabytes", "deep", "many", "aliases of aliases", "ten thousand applications"],
)
def test_documents_that_are_too_much_cost_less_than_a_moment(text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError, match=words):
        read_config(text, "app.yaml")
    assert time.process_time() - began < 10, "bounded, also on a busy machine"
    assert MAX_APPLICATIONS < 10_000


def test_values_and_lines() -> None:
    document = read_yaml("a: 1\nb:\n- x\n- {c: null, d: 2.5}\n", "f")
    assert document.value == {"a": 1, "b": ["x", {"c": None, "d": 2.5}]}
    assert document.lines["b", 1, "d"] == 4 and document.lines["b",] == 2


def test_overrides_and_environment_reach_the_specs(app_dir: Path) -> None:
    text = f"""
applications:
- name: one
  route_prefix: /one
  import_path: {module(app_dir)}:builder
  args: {{word: hello}}
  runtime_env: {{env_vars: {{A: file, B: file}}}}
  deployments:
  - name: Inner
    num_replicas: 3
    user_config: {{x: 1}}
"""
    (built,) = build_all(read_config(text, "app.yaml"), app_dir)
    inner, outer = (next(d for d in built.spec.deployments if d.name == name) for name in ("Inner", "Outer"))
    assert (inner.options.num_replicas, inner.options.max_ongoing_requests) == (3, 7)
    assert inner.options.user_config_json == '{"x": 1}'
    assert dict(inner.options.env_vars) == {"A": "file", "B": "file"}
    assert dict(outer.options.env_vars) == {"A": "code", "B": "file"}, "the deployment's own come first"
    assert (built.spec.route_prefix, built.spec.ingress) == ("/one", "Outer")


@pytest.mark.parametrize(
    ("option", "line", "words"),
    [
        ("num_replicas: -1", 6, "num_replicas"),
        ("num_replica: 2", 6, "Did you mean 'num_replicas'"),
        ("ray_actor_options: {num_cpu: 1}", 6, "Did you mean 'num_cpus'"),
    ],
)
def test_a_bad_option_is_told_with_its_line(app_dir: Path, option: str, line: int, words: str) -> None:
    text = f"applications:\n- import_path: {module(app_dir)}:app\n  deployments:\n  - name: Outer\n  - name: Inner\n"
    text += f"    {option}\n"
    with pytest.raises(ConfigError, match=words) as refused:
        build_all(read_config(text, "app.yaml"), app_dir)
    assert str(refused.value).startswith(f"app.yaml:{line}: "), str(refused.value)


def test_an_unknown_deployment_names_those_there_are(app_dir: Path) -> None:
    text = f"applications:\n- import_path: {module(app_dir)}:app\n  deployments:\n  - name: Middle\n"
    with pytest.raises(ConfigError, match=r"Deployment 'Middle' does not exist. Available: \['Inner', 'Outer'\]"):
        build_all(read_config(text, "app.yaml"), app_dir)


def test_what_build_writes_deploy_reads(app_dir: Path) -> None:
    target = app_dir / "out.yaml"
    build_command((f"{module(app_dir)}:app", f"{module(app_dir)}:app"), str(app_dir), target)
    config = read_config(target.read_text(), "out.yaml")
    assert [(app.name, app.route_prefix) for app in config.applications] == [("app1", "/app1"), ("app2", "/app2")]
    assert config.applications[0].overrides["Inner"]["num_replicas"] == 2
    first, _ = build_all(config, app_dir)
    assert {d.name: d.options.max_ongoing_requests for d in first.spec.deployments} == {"Inner": 7, "Outer": 100}
    assert yaml.safe_load(target.read_text())["proxy_location"] == "EveryNode"


def test_the_commands_tell_it_in_one_sentence(tmp_path: Path) -> None:
    def told(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["deploy", *arguments])

    bad = tmp_path / "bad.yaml"
    bad.write_text("applications:\n- import_path: a:b\n  foo: 1\n")
    assert f"Error: {bad}:3: applications[0].foo" in told(str(bad)).output
    assert "cannot be read" in told(str(tmp_path / "none.yaml")).output
    assert "go into the file" in told(str(bad), "x=1").output


def test_limits_of_an_application_stand_in_the_file(app_dir: Path) -> None:
    head = f"applications:\n- import_path: {module(app_dir)}:app\n"
    config = read_config(head + "  queue_timeout_s: 7\n  max_body_bytes: 1000\n  request_timeout_s: 2.5\n", "f")
    spec = build_all(config, app_dir)[0].spec
    assert (spec.queue_timeout_s, spec.handle_queue_timeout_s, spec.max_body_bytes) == (7, 7, 1000)
    assert spec.request_timeout_s == 2.5 and '"queue_timeout_s": 7' in spec.config_json
    plain = build_all(read_config(head, "f"), app_dir)[0].spec
    assert (plain.queue_timeout_s, plain.handle_queue_timeout_s, plain.max_body_bytes) == (60.0, None, 1 << 30)
    with pytest.raises(ConfigError, match=r":3: .*queue_timeout_s.* must be"):
        read_config(head + "  queue_timeout_s: 0\n", "f")
