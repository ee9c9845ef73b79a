"""Graphs, versions and blobs: what `serve.run` would send."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import serve_rt as serve
from serve_rt.api.build import AppOptions, Built, build
from serve_rt.api.deployment import Application
from serve_rt.api.graph import flatten
from serve_rt.api.payload import Payload, pack, payload_digest, unpack
from serve_rt.handle import DeploymentHandle
from serve_rt.model.spec import DeploymentSpec
from serve_rt.wire import records
from tests.api import sample_app


class Leaf:
    pass


class Tree:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


leaf, tree = serve.deployment(Leaf), serve.deployment(Tree)


def test_applications_become_handles_wherever_they_are() -> None:
    graph = flatten(
        tree.bind(leaf.bind(), [leaf.options(name="b").bind()], k={"x": (leaf.options(name="c").bind(),)}), "app"
    )
    assert graph.ingress == "Tree"
    assert [one.name for one in graph.deployments] == ["Leaf", "b", "c", "Tree"]
    top = graph.deployments[-1]
    assert top.args == (DeploymentHandle("Leaf", "app"), [DeploymentHandle("b", "app")])
    assert top.kwargs == {"k": {"x": (DeploymentHandle("c", "app"),)}}


def test_an_application_bound_twice_is_one_deployment() -> None:
    shared = leaf.bind()
    graph = flatten(tree.bind(tree.options(name="inner").bind(shared), shared), "app")
    assert [one.name for one in graph.deployments] == ["Leaf", "inner", "Tree"]


def test_equal_names_get_a_suffix(caplog: pytest.LogCaptureFixture) -> None:
    graph = flatten(tree.bind(leaf.bind(), leaf.bind(), leaf.bind()), "app")
    assert [one.name for one in graph.deployments] == ["Leaf", "Leaf_1", "Leaf_2", "Tree"]
    assert "Leaf_1" in caplog.text


def test_a_deployment_that_was_not_bound_is_named() -> None:
    with pytest.raises(TypeError, match=r"Leaf.bind\(...\)"):
        flatten(tree.bind(leaf), "app")


def test_an_application_in_a_place_that_is_not_searched_is_named() -> None:
    class Box:
        def __init__(self, inside: Application) -> None:
            self.inside = inside

    with pytest.raises(TypeError, match="lists, tuples, sets and dicts"):
        _build(tree.bind(Box(leaf.bind())))


def _build(app: Application, **options: Any) -> Built:
    return build(app, AppOptions(**{"code_root": Path("/nonexistent"), **options}))


def _spec(app: Application, **options: Any) -> DeploymentSpec:
    return _build(app, **options).spec.deployments[-1]


def test_the_record_survives_the_wire() -> None:
    spec = _build(sample_app.Model.bind(1, leaf.bind()), name="shop", route_prefix="/shop", deploy_id="d1").spec
    assert records.decode(records.encode(spec), type(spec)) == spec
    assert spec.deployments[-1].is_ingress and not spec.deployments[0].is_ingress


def test_blobs_are_named_by_their_digest_and_open_in_a_replica() -> None:
    built = _build(sample_app.Model.bind(5, leaf.bind()))
    payload = unpack(built.blobs[built.spec.deployments[-1].payload])
    assert payload.target is sample_app.Model.func_or_class
    assert payload.args == (5, DeploymentHandle("Leaf", "default"))


def test_a_deployment_of_a_module_travels_by_name() -> None:
    """By value its module's lock would have to be pickled; and a name is the same in every process."""
    data = pack(Payload(sample_app.Model.func_or_class))
    assert b"sample_app" in data and len(data) < 300
    assert unpack(data).target()() == 1


def test_the_version_changes_with_what_needs_another_process_and_nothing_else() -> None:
    base = _spec(sample_app.Model.bind(1)).version
    assert _spec(sample_app.Model.bind(1)).version == base
    light: dict[str, Any] = {
        "num_replicas": 5,
        "max_ongoing_requests": 3,
        "user_config": {"a": 1},
        "health_check_period_s": 1,
    }
    assert _spec(sample_app.Model.options(**light).bind(1)).version == base
    heavy: list[dict[str, Any]] = [
        {"ray_actor_options": {"num_cpus": 2}},
        {"ray_actor_options": {"num_gpus": 0.5}},
        {"ray_actor_options": {"runtime_env": {"env_vars": {"A": "1"}}}},
    ]
    versions = {_spec(sample_app.Model.options(**options).bind(1)).version for options in heavy}
    assert len(versions | {base, _spec(sample_app.Model.bind(2)).version}) == 5


SCRIPT = """
import sys
import serve_rt as serve
from serve_rt.api.build import AppOptions, build
from pathlib import Path

@serve.deployment
class Counter:
    step = {step}
    def __call__(self): return self.step

@serve.deployment
class Top:
    def __init__(self, counter): self.counter = counter

print([d.version for d in build(Top.bind(Counter.bind()), AppOptions(code_root=Path("/nonexistent"))).spec.deployments])
"""


def _versions_in_a_fresh_process(tmp_path: Path, step: int) -> str:
    (tmp_path / "script.py").write_text(SCRIPT.format(step=step))
    env = {**os.environ, "PYTHONHASHSEED": "random"}
    ended = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, env=env)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_script_run_again_has_the_same_versions(tmp_path: Path) -> None:
    first = _versions_in_a_fresh_process(tmp_path, 1)
    assert _versions_in_a_fresh_process(tmp_path, 1) == first
    assert _versions_in_a_fresh_process(tmp_path, 2) != first


def test_the_digest_leaves_out_the_random_ids_of_classes() -> None:
    def make() -> type:
        class Local:
            pass

        return Local

    first, second = (pack(Payload(make())) for _ in range(2))
    assert first != second and payload_digest(first) == payload_digest(second)


class _Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"Could not serialize the deployment Leaf: argument 'x' of bind\(\) \(a _Locked\)"
    ):
        _build(leaf.bind(x=_Locked()))


def test_code_that_uses_what_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import threading\nimport serve_rt as serve\nfrom serve_rt.api.payload import Payload, pack\n"
        "lock = threading.Lock()\n@serve.deployment\nclass A:\n    def __call__(self):\n        return lock\n"
        "try:\n    pack(Payload(A.func_or_class))\nexcept TypeError as error:\n    print(error)\n"
    )
    ended = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert "it uses the global 'lock'" in ended.stdout, ended


def test_user_config_for_a_function_is_refused() -> None:
    with pytest.raises(ValueError, match="function deployments"):
        _build(sample_app.double.options(user_config={}).bind())


def test_a_batch_that_can_never_fill_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Batching:
        @serve.batch(max_batch_size=8)
        async def work(self, items: list[int]) -> list[int]:
            return items

    _build(serve.deployment(max_ongoing_requests=4)(Batching).bind())
    assert "a full batch can never form" in caplog.text


def test_errors_with_attributes_stay_themselves() -> None:
    assert pickle.loads(cloudpickle.dumps(leaf.func_or_class)) is Leaf


def test_the_module_of_a_policy_that_is_only_named_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy_of_test_build.py").write_text("def policy(ctx):\n    return 2, {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, travels in (("no_such_module:policy", False), ("policy_of_test_build:policy", True)):
        config = {"max_replicas": 2, "policy": {"policy_function": name}}
        app = sample_app.Model.options(autoscaling_config=config).bind(1)
        assert (_build(app, code_root=tmp_path).spec.deployments[0].code is not None) is travels
