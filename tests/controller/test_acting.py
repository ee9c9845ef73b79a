"""The acting half over real gRPC: deploys, elections, fences, pushes; on the fake store and on a real etcd."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve_rt.config.protections import Protection, enabled
from serve_rt.controller import loop as loop_module
from serve_rt.controller.apply import apply
from serve_rt.controller.plan import SaveDeployment
from serve_rt.controller.push import overlay
from serve_rt.controller.rollout import first_memory
from serve_rt.controller.settings import ControlSettings
from serve_rt.controller.status import build_status
from serve_rt.errors import ConfigError, ConflictError, FencedError, NotFoundError, NotLeaderError
from serve_rt.etcd import Election, EtcdClient, Keys, Session
from serve_rt.etcd import election as election_module
from serve_rt.model.cluster import MetaRecord
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId, VersionId
from serve_rt.model.replica import Observed, ReplicaState
from serve_rt.model.spec import AutoscalingOptions
from serve_rt.model.status import ApplicationStatus
from serve_rt.testing.fake_etcd import FakeEtcd
from serve_rt.wire.records import encode
from tests.controller.stage import KEYS, Stage
from tests.controller.world import World, application, deployment_spec, node_record
from tests.etcd.etcd_server import EtcdServer


@asynccontextmanager
async def on_fake(folder: Path) -> AsyncGenerator[Stage, None]:
    store = FakeEtcd()
    stage = Stage(store, folder)
    try:
        await stage.open()
        yield stage
    finally:
        await stage.close()
        await store.close()


@asynccontextmanager
async def on_real(server: EtcdServer, folder: Path) -> AsyncGenerator[Stage, None]:
    store = EtcdClient([server.endpoint])
    await store.delete("", prefix=True)
    stage = Stage(store, folder)
    try:
        await stage.open()
        yield stage
    finally:
        await stage.close()
        await store.close()


def running(stage: Stage, app: str) -> bool:
    overview = build_status(stage.mirror.cluster, 0.0, 0.0).applications.get(app)
    return overview is not None and overview.status is ApplicationStatus.RUNNING


# --- deploying ----------------------------------------------------------------------------------------------------


async def test_a_deploy_is_pushed_at_once_and_serves(etcd_server: EtcdServer, tmp_path: Path) -> None:
    async with on_real(etcd_server, tmp_path) as stage:
        agent = await stage.agent("n1")
        await stage.candidate()
        await stage.deploy(application("warm", deployment_spec()))
        await stage.serving("warm", 1)
        agent.pushed.clear()
        address = await stage.leader()
        began = time.monotonic()
        await stage.deploy(application("hello", deployment_spec(num_replicas=2)), address=address)
        await agent.pushed.wait()
        pushed_s = time.monotonic() - began
        await stage.serving("hello", 2)
        await stage.mirror.wait_for(lambda _: running(stage, "hello"), 5)
        print(f"deploy to push {pushed_s * 1000:.1f} ms, to two routed {(time.monotonic() - began) * 1000:.1f} ms")
        assert pushed_s < 0.5  # 5-10 ms when the machine is quiet


async def test_fifty_parallel_deploys_all_land(etcd_server: EtcdServer, tmp_path: Path) -> None:
    async with on_real(etcd_server, tmp_path) as stage:
        await stage.agent("n1")
        await stage.candidate()
        address = await stage.leader()
        small = deployment_spec()
        small = replace(small, options=replace(small.options, resources=replace(small.options.resources, milli_cpu=10)))
        await asyncio.gather(*(stage.deploy(application(f"app{n}", small), address=address) for n in range(50)))
        await stage.mirror.wait_for(lambda _: all(running(stage, f"app{n}") for n in range(50)), 20)


async def test_the_same_deploy_id_gets_the_first_outcome_and_undoes_nothing(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.candidate()
        first = application("hello", deployment_spec(), deploy_id="one")
        told = await stage.deploy(first)
        assert (await stage.deploy(first)).revision == told.revision
        second = application("hello", deployment_spec(version="v2"), deploy_id="two")
        newer = await stage.deploy(second)
        assert (await stage.deploy(first)).revision == newer.revision
        assert stage.mirror.cluster.apps[AppName("hello")].value.deployments[0].version == "v2"


async def test_another_number_of_replicas_and_what_is_refused(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.agent("n1")
        await stage.candidate()
        auto = AutoscalingOptions(min_replicas=1, max_replicas=3)
        await stage.deploy(application("x", deployment_spec("d"), deployment_spec("auto", autoscaling=auto)))
        await stage.serving("x", 2)
        await stage.scale("x", "d", 3)
        await stage.serving("x", 4)
        await stage.scale("x", "d", 2, "again")
        await stage.scale("x", "d", 3)  # the first asking, repeated: known by its id
        await stage.serving("x", 3)
        assert {o.incarnation for o in stage.mirror.cluster.observed.values()} == {1}, "nothing is restarted"
        spec = stage.mirror.cluster.apps[AppName("x")].value.deployment(DeploymentName("d"))
        assert spec is not None and spec.options.num_replicas == 2
        for asked, error, words in (
            (("y", "d"), NotFoundError, "no application 'y'"),
            (("x", "e"), NotFoundError, "no deployment 'e'; it has 'auto', 'd'"),
            (("x", "auto"), ConfigError, "autoscaled, from 1 to 3"),
        ):
            with pytest.raises(error, match=words):
                await stage.scale(*asked, 2, "refused")
        await stage.delete("x")
        with pytest.raises(NotFoundError):
            await stage.scale("x", "d", 1, "late")


async def test_applications_of_one_request_are_written_at_one_moment(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.candidate()
        apps = [application(name, deployment_spec(), deploy_id="one") for name in ("a", "b", "c")]
        told = await stage.deploy_together(*apps)
        assert [stage.mirror.cluster.apps[app.name].mod_revision for app in apps] == [told.revision] * 3
        assert (await stage.deploy_together(*apps)).revision == told.revision, "the same ids: the first outcome"
        with pytest.raises(ConfigError, match="121 applications in one request"):
            await stage.deploy_together(*(application(f"x{n}", deployment_spec()) for n in range(121)))
        assert len(stage.mirror.cluster.apps) == 3


async def test_one_of_two_apps_gets_the_prefix(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.candidate()
        address = await stage.leader()
        outcomes = await asyncio.gather(
            *(stage.deploy(application(n, deployment_spec(), prefix="/x"), address=address) for n in ("one", "two")),
            return_exceptions=True,
        )
        (refused,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert isinstance(refused, ConflictError)
        assert str(refused).startswith('Prefix /x is being used by application "')


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (application("", deployment_spec(), prefix="/"), "must a non-empty string"),
        (application("a/b", deployment_spec()), "'a/b' is not allowed"),
        (application("a", deployment_spec("d#e")), "'d#e' is not allowed"),
        (application("a", deployment_spec(), prefix="x"), "must start with '/'"),
        (application("a", deployment_spec(), prefix="/x/"), "must not end with '/'"),
        (application("a", deployment_spec(), deployment_spec()), "2 deployments named 'd'"),
        (replace(application("a", deployment_spec()), ingress=DeploymentName("z")), "no deployment 'z'"),
        (application("a", deployment_spec(num_replicas=-1)), "num_replicas=-1"),
    ],
)
async def test_a_bad_application_is_refused_by_name(app: object, words: str, tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.candidate()
        with pytest.raises(ConfigError, match=words):
            await stage.deploy(app)  # type: ignore[arg-type]  # an ApplicationSpec
        assert not stage.mirror.cluster.apps


async def test_force_replaces_replicas_and_a_plain_deploy_after_it_restarts_nothing(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        agent = await stage.agent("n1")
        await stage.candidate()
        await stage.deploy(application("hello", deployment_spec(), deploy_id="one"))
        await stage.serving("hello", 1)
        (first,) = agent.running
        await stage.deploy(application("hello", deployment_spec(), deploy_id="two"), force=True)
        await stage.mirror.wait_for(lambda _: set(agent.running) != {first} and len(agent.running) == 1, 5)
        (second,) = agent.running
        await stage.deploy(application("hello", deployment_spec(), deploy_id="three"))
        await stage.mirror.wait_for(lambda _: running(stage, "hello"), 5)
        assert set(agent.running) == {second}


async def test_delete_leaves_no_key(etcd_server: EtcdServer, tmp_path: Path) -> None:
    async with on_real(etcd_server, tmp_path) as stage:
        await stage.agent("n1")
        await stage.candidate()
        await stage.deploy(application("hello", deployment_spec(num_replicas=2)))
        await stage.serving("hello", 2)
        await stage.delete("hello")
        await stage.delete("never heard of")
        await stage.mirror.wait_for(lambda c: not (c.apps or c.observed or c.assignments), 10)
        left = [key.removeprefix(KEYS.all) for key in (await stage.store.list(KEYS.all)).items]
        assert left == ["leader", "meta", "nodes/n1"]


async def test_without_the_push_the_watch_alone_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "enabled", lambda p: p is not Protection.PUSH and enabled(p))
    async with on_fake(tmp_path) as stage:
        agent = await stage.agent("n1", watches=True)
        await stage.candidate()
        await stage.deploy(application("hello", deployment_spec(num_replicas=2)))
        await stage.serving("hello", 2)
        assert not agent.pushes


# --- leading ------------------------------------------------------------------------------------------------------


async def test_a_polite_stop_hands_over_at_once_and_restarts_nothing(etcd_server: EtcdServer, tmp_path: Path) -> None:
    async with on_real(etcd_server, tmp_path) as stage:
        agent = await stage.agent("n1")
        first = await stage.candidate("a")
        await stage.leader()
        await stage.candidate("b")
        await stage.deploy(application("hello", deployment_spec(num_replicas=2)))
        await stage.serving("hello", 2)
        before = dict(agent.running)
        began = time.monotonic()
        await first.stop()
        await stage.leader(other_than="a")
        assert time.monotonic() - began < 2.0  # 0.5 on a quiet machine
        await stage.deploy(application("hello", deployment_spec(num_replicas=3), deploy_id="two"))
        await stage.serving("hello", 3)
        assert before.keys() <= agent.running.keys()


async def test_who_does_not_lead_names_the_leader(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.candidate("a")
        address = await stage.leader()
        other = (await stage.candidate("b")).address
        with pytest.raises(NotLeaderError) as refused:
            await stage.deploy(application("hello", deployment_spec()), address=other)
        assert refused.value.address == address


async def test_a_leader_cut_off_is_replaced_and_its_late_writes_are_fenced(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        assert isinstance(stage.store, FakeEtcd)
        agent = await stage.agent("n1")
        link = stage.store.peer()
        await stage.candidate("a", store=link)
        await stage.leader()
        await stage.deploy(application("hello", deployment_spec()))
        await stage.serving("hello", 1)
        before = dict(agent.running)
        await stage.candidate("b")
        link.unavailable = True
        await stage.leader(other_than="a")
        await stage.deploy(application("hello", deployment_spec(num_replicas=2), deploy_id="two"))
        await stage.serving("hello", 2)
        assert before.keys() <= agent.running.keys()
        assert agent.highest_epoch == stage.mirror.cluster.epoch


@pytest.mark.parametrize("fence", [True, False], ids=["fenced", "negative control"])
async def test_a_deposed_leaders_plan_changes_nothing(fence: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election_module, "enabled", lambda _: fence)
    store, keys = FakeEtcd(), Keys("stage")
    session = await Session.open(store, 10)
    leadership = await Election(store, session, keys.leader, b"{}").campaign()
    await store.delete(keys.leader)  # deposed, and it does not know
    key = DeploymentKey(AppName("a"), DeploymentName("d"))
    late = [SaveDeployment(first_memory(key, deployment_spec(), 1, 0.0))]
    try:
        if fence:
            with pytest.raises(FencedError):
                await apply(late, leadership, keys, {})
            assert await store.get(keys.deployment(*late_key(key))) is None
        else:
            await apply(late, leadership, keys, {})
            assert await store.get(keys.deployment(*late_key(key))) is not None
    finally:
        await leadership.resign()
        await session.close()
        await store.close()


def late_key(key: DeploymentKey) -> tuple[AppName, DeploymentName]:
    return key.app, key.deployment


async def test_a_new_leader_hears_the_agents_before_it_decides(tmp_path: Path) -> None:
    """The store lost the observed record of a running replica; the agent still reports it: nothing is restarted."""
    async with on_fake(tmp_path) as stage:
        agent = await stage.agent("n1")
        first = await stage.candidate("a")
        await stage.deploy(application("hello", deployment_spec()))
        await stage.serving("hello", 1)
        await first.stop()
        (replica,) = agent.running
        await stage.store.delete(KEYS.observed(NodeId("n1"), replica))
        seen: list[int] = []
        stage.mirror.subscribe(lambda c: seen.append(sum(len(r.replicas) for r in c.routes.values())))
        await stage.candidate("b")
        await stage.leader(other_than="a")
        await stage.deploy(application("other", deployment_spec()))
        await stage.serving("other", 1)
        assert min(seen) == 1, "the route was taken away for want of a record"


async def test_a_store_that_went_back_gets_a_new_incarnation_first(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        await stage.store.put(KEYS.meta, encode(MetaRecord("old")))
        await stage.agent("n1", highest_revision=1_000_000)
        await stage.candidate()
        cluster = await stage.mirror.wait_for(lambda c: c.incarnation not in ("", "old"), 5)
        revision = cluster.revision
        await stage.deploy(application("hello", deployment_spec()))
        await stage.serving("hello", 1)
        assert stage.mirror.cluster.incarnation == cluster.incarnation
        assert revision < stage.mirror.cluster.apps[AppName("hello")].mod_revision


async def test_the_store_away_and_back(tmp_path: Path) -> None:
    async with on_fake(tmp_path) as stage:
        assert isinstance(stage.store, FakeEtcd)
        agent = await stage.agent("n1")
        await stage.candidate(settings=ControlSettings(lease_s=30.0))
        await stage.deploy(application("hello", deployment_spec()))
        await stage.serving("hello", 1)
        before = dict(agent.running)
        stage.store.stop()
        stage.store.start()
        await stage.deploy(application("hello", deployment_spec(num_replicas=2), deploy_id="two"))
        await stage.serving("hello", 2)
        assert before.keys() <= agent.running.keys()


def test_reports_are_fresher_than_records_but_do_not_hide_what_is_not_adopted_yet() -> None:
    world = World()
    world.add_node(node_record("n", session="new"))
    world.deploy(application("x", deployment_spec(num_replicas=2)))
    world.step()
    one, two = sorted(world.cluster.assignments)
    for replica in (one, two):
        world.put(world_key(replica), Observed(replica, NodeId("n"), "old", ReplicaState.READY, 1, "n:1", version="v1"))
    spoken = {one: Observed(one, NodeId("n"), "new", ReplicaState.BACKOFF, 1, "n:1", version="v1")}
    seen = overlay(world.cluster, {NodeId("n"): spoken}).observed
    assert seen[one].state is ReplicaState.BACKOFF
    assert seen[two].state is ReplicaState.READY, "a new agent has not come to it yet"
    assert VersionId(seen[two].version) == "v1"


def world_key(replica: str) -> str:
    return f"/serve-rt/test/observed/n/{replica}"
