"""Versions of an application: which ones are kept, what a rollback leads to, and that nobody's deploy is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_rt.controller.history import version_overviews
from serve_rt.controller.status import build_status
from serve_rt.errors import ConfigError, ConflictError, NotFoundError
from serve_rt.model.application import KEPT_APP_VERSIONS, ApplicationMemory, same_content, version_before
from serve_rt.model.ids import AppName, NodeId
from serve_rt.model.replica import ReplicaState
from serve_rt.model.spec import ApplicationSpec
from serve_rt.model.status import ApplicationStatus, ApplicationStatusOverview, VersionState
from tests.controller.stage import KEYS, Stage
from tests.controller.test_acting import on_fake, on_real
from tests.controller.world import World, application, deployment_spec, node_record
from tests.etcd.etcd_server import EtcdServer

X = AppName("x")


def version(number: int, **options: Any) -> ApplicationSpec:
    return application("x", deployment_spec(version=f"v{number}", **options), deploy_id=f"deploy {number}")


def status_of(world: World) -> ApplicationStatusOverview:
    return build_status(world.cluster, 0.0, 0.0).applications["x"]


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (ApplicationMemory(X, 1, asked=1, serving=1), None),
        (ApplicationMemory(X, 1, asked=1, serving=1, good=(1,)), None),
        (ApplicationMemory(X, 1, asked=3, serving=3, good=(3, 1)), 1),
        (ApplicationMemory(X, 1, asked=3, serving=2, good=(2, 1)), 2),
        (ApplicationMemory(X, 1, asked=3, serving=2, good=(2, 1), refused=True), 2),
    ],
    ids=["never good", "the first", "the good one before", "one on its way", "a refused one"],
)
def test_where_a_rollback_leads(memory: ApplicationMemory, expected: int | None) -> None:
    assert version_before(memory) == expected


def test_the_last_five_and_the_last_good_one_are_kept() -> None:
    world = World(failing={f"v{n}" for n in range(2, 10)})
    world.add_node(node_record("a"))
    for number in range(1, 10):
        world.deploy(version(number))
        world.settle()
    kept = sorted(world.cluster.versions[X])
    assert kept == [1, *range(9 - KEPT_APP_VERSIONS + 1, 10)]
    states = {one.number: one.state for one in version_overviews(world.cluster, X)}
    assert states[1] is VersionState.SERVING and set(states.values()) == {VersionState.SERVING, VersionState.REFUSED}


def test_asked_twice_for_the_same_it_is_one_version() -> None:
    world = World()
    world.add_node(node_record("a"))
    for deploy_id in ("one", "two"):
        world.deploy(replace(version(1), deploy_id=deploy_id))
        world.settle()
    assert sorted(world.cluster.versions[X]) == [1]
    assert not same_content(version(1), version(1, max_ongoing_requests=7))


def test_what_a_deleted_life_had_is_not_gone_back_to() -> None:
    world = World()
    world.add_node(node_record("a"))
    for number in (1, 2):
        world.deploy(version(number))
        world.settle()
    world.delete_app("x")
    world.deploy(version(3))
    world.settle()
    assert [one.deployments["d"] for one in version_overviews(world.cluster, X)] == ["v3"]
    assert version_before(world.cluster.served[X]) is None


def test_a_light_change_is_a_version_and_restarts_nothing() -> None:
    world = World()
    world.add_node(node_record("a"))
    world.deploy(version(1, num_replicas=2))
    world.settle()
    before = {a.replica_id for a in world.members("x")}
    light: dict[str, Any] = {
        "user_config_json": "7",
        "max_ongoing_requests": 3,
        "retry_safe": True,
        "health_check_period_s": 1.0,
    }
    world.deploy(replace(version(1, num_replicas=2, **light), route_prefix="/y", request_timeout_s=3.0))
    world.settle()
    assert {a.replica_id for a in world.members("x")} == before
    assert {a.spec.options.user_config_json for a in world.members("x")} == {"7"}
    serving = world.cluster.serving(X)
    assert serving is not None and (serving.route_prefix, serving.request_timeout_s) == ("/y", 3.0)
    assert [one.number for one in version_overviews(world.cluster, X)] == [2, 1]


def test_a_user_config_that_is_refused_is_rolled_back_and_a_later_restart_finds_the_good_one() -> None:
    world = World(refused_configs={"bad"})
    world.add_node(node_record("a"))
    world.deploy(version(1, num_replicas=2, user_config_json="good"))
    world.settle()
    before = {a.replica_id for a in world.members("x")}
    world.deploy(version(1, num_replicas=2, user_config_json="bad"))
    world.settle()
    members = list(world.members("x"))
    assert {a.replica_id for a in members} == before, "nothing was restarted"
    assert {a.spec.options.user_config_json for a in members} == {"good"}
    memory = world.cluster.served[X]
    assert memory.refused and "ValueError: no such threshold" in memory.message and "'d'" in memory.message
    status = status_of(world)
    assert status.status is ApplicationStatus.DEPLOY_FAILED and "no such threshold" in status.message
    assert status.deployments["d"].replica_states == {"RUNNING": 2}
    assert [(v.number, v.state) for v in status.versions] == [(2, VersionState.REFUSED), (1, VersionState.SERVING)]
    for replica in before:
        world.crash(replica)
    world.settle()
    assert {o.state for o in world.cluster.observed.values()} == {ReplicaState.READY}
    world.deploy(version(1, num_replicas=2, user_config_json="better"))
    world.settle()
    assert world.cluster.served[X].last_good == 3
    assert status_of(world).status is ApplicationStatus.RUNNING


def test_a_user_config_is_not_good_before_every_replica_has_taken_it() -> None:
    world = World()
    world.add_node(node_record("a"))
    world.add_node(node_record("b"))
    world.deploy(version(1, num_replicas=2, user_config_json="1"))
    world.settle()
    world.deploy(version(1, num_replicas=2, user_config_json="2"))
    while world.step():
        pass
    world.agent(NodeId("a"))
    world.step()
    assert world.cluster.served[X].last_good == 1, "one replica is still to take it"
    assert status_of(world).status is ApplicationStatus.DEPLOYING
    world.settle()
    assert world.cluster.served[X].last_good == 2


def test_with_several_deployments_all_go_back_when_one_refuses_its_config() -> None:
    def both(number: int, config: str) -> ApplicationSpec:
        one = deployment_spec("one", version=f"v{number}")
        two = deployment_spec("two", version="v1", user_config_json=config)
        return application("x", one, two)

    world = World(refused_configs={"bad"})
    world.add_node(node_record("a"))
    world.deploy(both(1, "good"))
    world.settle()
    world.deploy(both(2, "bad"))
    world.settle()
    assert {(a.spec.name, a.spec.version) for a in world.members("x")} == {("one", "v1"), ("two", "v1")}
    assert {a.spec.options.user_config_json for a in world.members("x") if a.spec.name == "two"} == {"good"}
    assert world.cluster.served[X].refused


# --- through the leader -----------------------------------------------------------------------------------------------


async def _good(stage: Stage, number: int) -> None:
    await stage.mirror.wait_for(lambda c: X in c.served and c.served[X].last_good == number, 10)


async def test_rollback_to_the_version_before_and_to_a_number(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.agent("n1")
        await stage.candidate()
        for number in (1, 2, 3):
            await stage.deploy(version(number))
            await _good(stage, number)
        back = await stage.rollback("x")
        again = await stage.rollback("x")
        assert (back.version, again.version) == (2, 2), "asked twice under one deploy id it is done once"
        await _good(stage, 4)
        assert (await stage.rollback("x", 1, "further")).version == 1
        await _good(stage, 5)
        overviews = version_overviews(stage.mirror.cluster, X)
        assert [(one.deployments["d"], one.restores) for one in overviews[:2]] == [("v1", 1), ("v2", 2)]


async def test_rollback_names_the_versions_there_are(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.agent("n1")
        await stage.candidate()
        with pytest.raises(NotFoundError, match="no application 'x'"):
            await stage.rollback("x")
        await stage.deploy(version(1))
        await _good(stage, 1)
        with pytest.raises(NotFoundError, match="no good version before the present one"):
            await stage.rollback("x")
        with pytest.raises(NotFoundError, match="no version 7; kept are the last ones: 1"):
            await stage.rollback("x", 7)


async def test_fifty_deploys_at_once_all_land(etcd_server: EtcdServer, tmp_path: Path) -> None:
    async with on_real(etcd_server, tmp_path) as stage:
        await stage.agent("n1")
        await stage.candidate()
        await stage.leader()
        small = deployment_spec(max_ongoing_requests=5)
        apps = [application(f"app{n}", small, deploy_id=f"d{n}") for n in range(25)]
        again = [application(f"app{n}", small, deploy_id=f"second{n}", prefix=f"/second{n}") for n in range(25)]
        await asyncio.gather(*(stage.deploy(app) for app in (*apps, *again)))
        await stage.mirror.wait_for(lambda c: len(c.served) == 25 and all(m.good for m in c.served.values()), 20)
        cluster = stage.mirror.cluster
        for n in range(25):
            app = cluster.apps[AppName(f"app{n}")].value
            assert {app.deploy_id, *app.past_deploy_ids} == {f"d{n}", f"second{n}"}, (
                "neither overwrote the other unseen"
            )
            assert sum(1 for a in cluster.assignments.values() if a.app == app.name) == 1


async def test_applications_of_one_request_are_deployed_all_or_none(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.candidate()
        await stage.deploy(application("other", deployment_spec(), prefix="/taken"))
        one, two = (application(name, deployment_spec(), deploy_id=name) for name in ("one", "two"))
        before = await stage.store.list(KEYS.apps)
        refused = [
            (ConflictError, (one, replace(two, route_prefix="/taken")), 'being used by application "other"'),
            (ConflictError, (one, replace(two, route_prefix="/one")), 'being used by application "one"'),
            (ConfigError, (one, one), "asked for twice"),
            (ConfigError, (one, application("two", deployment_spec(num_replicas=-1))), "num_replicas=-1"),
        ]
        for error, apps, words in refused:
            with pytest.raises(error, match=words):
                await stage.deploy_together(*apps)
            assert (await stage.store.list(KEYS.apps)).items == before.items, "nothing of it was written"
        await stage.deploy_together(one, replace(two, route_prefix="/taken"), gone=["other"])
        cluster = await stage.mirror.wait_for(lambda c: set(c.apps) == {"one", "two"}, 10)
        assert cluster.apps[AppName("two")].value.route_prefix == "/taken"
