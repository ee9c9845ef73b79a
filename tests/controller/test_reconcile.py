"""Single rules of reconcile that the stories do not tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_rt.controller.census import Member, NodeStanding
from serve_rt.controller.plan import DeleteAssignment, DrainAssignment, SaveDeployment
from serve_rt.controller.reconcile import reconcile
from serve_rt.controller.settings import ControlSettings
from serve_rt.errors import ConfigError
from serve_rt.model.cluster import ROLLOUT_TRANSITIONS, RolloutPhase
from serve_rt.model.ids import NodeId, ReplicaId
from serve_rt.model.replica import Observed, ReplicaState
from serve_rt.model.resources import Resources
from serve_rt.model.transitions import mermaid
from tests.controller.world import World, application, deployment_spec, node_record


def a_world(**options: float) -> World:
    world = World()
    world.add_node(node_record("a"))
    world.deploy(application("x", deployment_spec("d", "v1", **options)))
    return world


def test_a_replica_never_observed_goes_only_when_its_agent_has_read_that_it_must() -> None:
    """Otherwise its device could be given to another while the agent is about to start it."""
    world = a_world()
    world.step()
    world.delete_app("x")
    world.step()
    (replica,) = world.cluster.assignments
    written = world.cluster.assigned_at[replica]
    behind = replace(world.cluster, applied={NodeId("a"): written - 1})
    assert not any(isinstance(a, DeleteAssignment) for a in reconcile(behind, world.now, world.settings).actions)
    read = replace(world.cluster, applied={NodeId("a"): written})
    assert any(isinstance(a, DeleteAssignment) for a in reconcile(read, world.now, world.settings).actions)


@pytest.mark.parametrize(("incarnation", "failures"), [(0, 0), (1, 1)], ids=["not started yet", "started and ended"])
def test_a_replica_that_waits_for_its_first_start_has_not_failed(incarnation: int, failures: int) -> None:
    """With max_constructor_retry_count=1 the deploy failed before anything was started."""
    observed = Observed(ReplicaId("x#d#1"), NodeId("a"), "s", ReplicaState.BACKOFF, incarnation)
    member = Member(observed.replica_id, observed.node_id, NodeStanding.LIVE, None, observed, confirmed=True)
    assert member.failures == failures


def test_one_deployment_in_an_impossible_state_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world()
    world.settle()
    monkeypatch.setitem(ROLLOUT_TRANSITIONS, RolloutPhase.STEADY, frozenset())
    world.deploy(application("x", deployment_spec(version="v2"), deploy_id="two"))
    world.deploy(application("y", deployment_spec()))
    plan = world.plan()
    assert {a.memory.app for a in plan.actions if isinstance(a, SaveDeployment)} == {"y"}
    (note,) = plan.notes
    assert "STEADY -> ROLLING is not allowed (history: ROLLING v1 -> STEADY v1)" in note


def test_the_plan_says_when_to_look_again() -> None:
    world = a_world(progress_deadline_s=60.0)
    world.stuck.add("v1")
    world.settle()
    assert world.plan().wake_at == world.now + 60.0
    world.stuck.clear()
    world.settle()
    assert world.plan().wake_at is None
    world.lose("a")
    assert world.plan().wake_at == world.now + 10.0
    world.now += 10.0
    assert world.plan().wake_at == world.cluster.gone_since[NodeId("a")] + 600.0


def test_progress_renews_the_deadline() -> None:
    world = a_world(num_replicas=2, progress_deadline_s=60.0)
    world.stuck.add("v1")
    world.settle()
    world.now += 59.0
    (first, _) = sorted(world.cluster.assignments)
    process = world.processes[NodeId("a")][first]
    process.state = type(process.state).READY
    world.agents()
    world.settle()
    world.now += 59.0
    assert not world.plan()
    world.now += 2.0
    assert world.plan()


def test_five_versions_are_kept_and_the_last_good_one_always() -> None:
    world = a_world(progress_deadline_s=60.0)
    world.settle()
    world.stuck |= {f"v{n}" for n in range(2, 12)}
    for n in range(2, 12):
        world.deploy(application("x", deployment_spec(version=f"v{n}", progress_deadline_s=60.0), deploy_id=f"d{n}"))
        world.settle()
    (memory,) = world.cluster.deployments.values()
    assert [spec.version for spec in memory.versions] == ["v11", "v10", "v9", "v8", "v1"]
    world.now += 61
    world.settle()
    (memory,) = world.cluster.deployments.values()
    assert (memory.target.version, memory.phase) == ("v1", RolloutPhase.ROLLED_BACK)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="node_given_up_s"):
        ControlSettings(node_grace_s=20.0, node_given_up_s=10.0)


def test_the_readme_shows_the_table() -> None:
    from pathlib import Path

    import serve_rt.controller as package

    readme = Path(package.__path__[0]) / "README.md"
    assert mermaid(ROLLOUT_TRANSITIONS) in readme.read_text()


def test_a_replica_whose_agent_began_anew_is_not_stopped_first_as_if_it_served_nobody() -> None:
    """One of two runs, there is no room for the other: a new version must not take the one that is left. Its agent
    had registered again and not yet said how the replica is."""
    world = World()
    world.add_node(node_record("a", gpus=1))
    one_gpu = Resources(milli_gpu=1000)
    world.deploy(application("x", deployment_spec("d", "v1", num_replicas=2, resources=one_gpu)))
    world.settle()
    second = deployment_spec("d", "v2", num_replicas=2, resources=one_gpu)
    world.deploy(application("x", second, deploy_id="two"))
    world.back("a")
    assert not [action for action in world.plan().actions if isinstance(action, DrainAssignment)]
