"""`target_capacity` and an application's `autoscaling_policy` in a configuration file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serve_rt.cli.config_file import build_all
from serve_rt.config.app_config import read_config
from serve_rt.errors import ConfigError
from serve_rt.model.capacity import at_capacity, is_rising, while_rising
from serve_rt.model.spec import ApplicationSpec, AutoscalingOptions, DeploymentOptions

SCALED = AutoscalingOptions(min_replicas=2, max_replicas=10, initial_replicas=6)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(10, 50, 5), (3, 50, 2), (5, 50, 3), (1, 1, 1), (10, 100, 10), (4, 0, 0), (0, 50, 0)],
)
def test_rounded_half_up_and_never_none_of_something(count: int, percent: float, expected: int) -> None:
    assert at_capacity(DeploymentOptions(num_replicas=count), percent).num_replicas == expected


def test_all_bounds_follow() -> None:
    scaling = at_capacity(DeploymentOptions(autoscaling=SCALED), 50.0).autoscaling
    assert scaling is not None
    assert (scaling.min_replicas, scaling.max_replicas, scaling.initial_replicas) == (1, 5, 3)


def application(tmp_path: Path, text: str) -> ApplicationSpec:
    (tmp_path / f"cap_{tmp_path.name}.py").write_text(
        "import serve_rt as serve\n"
        "@serve.deployment(num_replicas=4)\n"
        "class D:\n"
        "    def __call__(self): return 1\n"
        "app = D.bind()\n"
    )
    text = text.replace("MODULE", f"cap_{tmp_path.name}")
    return build_all(read_config(text, "app.yaml"), tmp_path)[0].spec


def test_a_file_says_how_much_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    half = application(tmp_path, "target_capacity: 50\napplications:\n- import_path: MODULE:app\n")
    full = application(tmp_path, "applications:\n- import_path: MODULE:app\n")
    assert half.deployments[0].options.num_replicas == 2 and half.target_capacity == 50.0
    assert full.deployments[0].options.num_replicas == 4 and full.target_capacity is None
    assert half.deployments[0].version == full.deployments[0].version, "nothing restarts"


def test_while_it_rises_the_initial_replicas_are_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    one = application(tmp_path, "target_capacity: 50\napplications:\n- import_path: MODULE:app\n")
    more, less = replace(one, target_capacity=70.0), replace(one, target_capacity=30.0)
    assert is_rising(one, None) and is_rising(more, one) and not is_rising(less, one)
    assert not is_rising(one, replace(one, target_capacity=None)), "down from all of it"
    assert is_rising(one, replace(one, capacity_rising=True)) and not is_rising(one, one), "asked again: as before"
    spec = one.deployments[0]
    scaled = replace(spec, options=replace(spec.options, autoscaling=SCALED))
    held = while_rising(scaled).options.autoscaling
    assert held is not None and held.min_replicas == 6
    assert while_rising(spec) is spec


def test_a_policy_for_the_whole_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    policy = "  autoscaling_policy:\n    policy_function: mine:policy\n    policy_kwargs: {a: 1}\n"
    spec = application(tmp_path, "applications:\n- import_path: MODULE:app\n" + policy)
    assert spec.autoscaling_policy is not None
    assert (spec.autoscaling_policy.name, spec.autoscaling_policy.kwargs_json) == ("mine:policy", '{"a": 1}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target_capacity: 101\napplications: []\n", ":1: target_capacity: must be a percentage"),
        ("target_capacity: half\napplications: []\n", "must be a percentage"),
        ("applications:\n- import_path: a:b\n  autoscaling_policy: {function: x}\n", ":3: .*autoscaling_policy"),
        ("applications:\n- import_path: a:b\n  autoscaling_policy: {policy_function: 7}\n", ":3: .*must be a text"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(text, "app.yaml")
