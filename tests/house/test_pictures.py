"""Pictures of state machines in READMEs are printed from the tables they show."""

from __future__ import annotations

from serve_rt.model.replica import REPLICA_TRANSITIONS
from serve_rt.model.transitions import mermaid
from tests.house.sources import ROOT


def test_the_replicas_life_is_the_table() -> None:
    assert mermaid(REPLICA_TRANSITIONS) in (ROOT / "serve_rt/model/README.md").read_text()
