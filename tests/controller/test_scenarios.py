"""Reconcile told as stories: scenarios/*.txt hold commands and what the leader then decides, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.controller.scenario import run

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    told = run(text)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(told)
    else:
        assert told == text


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 8
