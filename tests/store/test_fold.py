"""Key changes in, Cluster out: shared where untouched, joined where sharded, blind to nothing for one bad record."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from serve_rt.model.cluster import Absence, Cluster, DeploymentMemory, LeaderRecord, MetaRecord, RolloutPhase
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.node import NodeRecord
from serve_rt.model.proxies import ProxyLocation, ProxyRecord
from serve_rt.model.replica import Assignment, Observed, ReplicaState
from serve_rt.model.resources import NodeResources
from serve_rt.model.routes import DeploymentRoute, ReplicaRoute
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec
from serve_rt.store.fold import Change, Fold
from serve_rt.wire.records import encode

SPEC = DeploymentSpec(DeploymentName("d"), VersionId("v1"), BlobDigest("0" * 64), None)
KEY = DeploymentKey(AppName("a"), DeploymentName("d"))
REPLICA = ReplicaId("a#d#aaaaaa")
NODE = NodeRecord(NodeId("n"), "n:1", "s", "boot", NodeResources(1000, 1 << 30))


def put(path: str, value: object, revision: int = 1) -> Change:
    return Change(path, encode(value), revision, revision)


def everything() -> list[Change]:
    return [
        put("meta", MetaRecord("i")),
        put("leader", LeaderRecord(NodeId("n"), "n:2"), 7),
        put("nodes/n", NODE),
        put("apps/a", ApplicationSpec(AppName("a"), "one", DeploymentName("d"), (SPEC,)), 9),
        put("deployments/a/d", DeploymentMemory(AppName("a"), DeploymentName("d"), SPEC)),
        put(f"assign/n/{REPLICA}", Assignment(REPLICA, NodeId("n"), AppName("a"), SPEC)),
        put(f"observed/n/{REPLICA}", Observed(REPLICA, NodeId("n"), "s", ReplicaState.READY)),
        put("routes/a/d/0", route("x")),
        Change("blobs/00/n", b"{}"),
        put("proxy", ProxyRecord(ProxyLocation.HeadOnly)),
    ]


def route(*replicas: str) -> DeploymentRoute:
    routes = tuple(ReplicaRoute(ReplicaId(f"a#d#{r}"), 1, "n:3", NodeId("n")) for r in replicas)
    return DeploymentRoute(AppName("a"), DeploymentName("d"), routes)


def test_every_kind_of_key_is_there_and_goes_again() -> None:
    fold = Fold()
    full = fold.restart(everything(), 10, now=0.0)
    assert (full.incarnation, full.epoch, full.apps[AppName("a")].mod_revision) == ("i", 7, 9)
    assert full.leader is not None and full.nodes and full.deployments and full.assignments and full.observed
    assert full.routes[KEY] == route("x") and full.blobs == {"00": {"n"}}
    assert full.proxy == ProxyRecord(ProxyLocation.HeadOnly) and full.registered_at == {"n": 1}
    empty = fold.apply([Change(change.path, None) for change in everything()], 11, now=1.0)
    assert empty == Cluster(revision=11)


def test_untouched_maps_are_shared_and_old_values_stay_as_they_were() -> None:
    fold = Fold()
    before = fold.restart(everything(), 10, now=0.0)
    after = fold.apply([put("nodes/m", replace(NODE, node_id=NodeId("m")))], 11, now=1.0)
    assert set(before.nodes) == {"n"} and set(after.nodes) == {"n", "m"}
    assert after.observed is before.observed and after.routes is before.routes


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("nodes/n", b"{not json"),
        ("assign/n/no-replica", encode(Assignment(REPLICA, NodeId("n"), AppName("a"), SPEC))),
        ("nodes/too/deep", encode(NODE)),
        ("deployments/a/d", b'{"schema": 99}'),
        ("routes/a/d/x", encode(route("x"))),
    ],
)
def test_a_record_that_cannot_be_read_blinds_nobody(path: str, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    fold = Fold()
    full = fold.restart(everything(), 10, now=0.0)
    with caplog.at_level(logging.ERROR):
        after = fold.apply([Change(path, data), put("nodes/m", replace(NODE, node_id=NodeId("m")))], 11, now=1.0)
    assert path in caplog.text
    assert set(after.nodes) == {"n", "m"}
    assert after.deployments == full.deployments and after.routes == full.routes


def test_shards_are_one_route_and_shrink() -> None:
    fold = Fold()
    fold.restart([put("routes/a/d/0", route("x")), put("routes/a/d/1", route("y"))], 1, now=0.0)
    assert fold.cluster.routes[KEY] == route("x", "y") and fold.cluster.route_shards == {KEY: 2}
    fold.apply([Change("routes/a/d/1", None)], 2, now=0.0)
    assert fold.cluster.routes[KEY] == route("x") and fold.cluster.route_shards == {KEY: 1}


def test_a_node_that_holds_replicas_is_gone_since_it_left_also_over_a_new_listing() -> None:
    fold = Fold()
    fold.restart(everything(), 10, now=0.0)
    assert not fold.cluster.gone_since
    fold.apply([Change("nodes/n", None)], 11, now=5.0)
    fold.apply([put("nodes/m", replace(NODE, node_id=NodeId("m")))], 12, now=6.0)
    assert fold.cluster.gone_since == {"n": 5.0}
    listed = [change for change in everything() if change.path != "nodes/n"]
    assert fold.restart(listed, 13, now=9.0).gone_since == {"n": 5.0}
    back = fold.apply([put("nodes/n", NODE)], 14, now=10.0)
    assert not back.gone_since and back.absences == {"n": Absence(5.0, 10.0)}
    fold.apply([Change(f"assign/n/{REPLICA}", None), Change(f"observed/n/{REPLICA}", None)], 15, now=11.0)
    assert not fold.apply([Change("nodes/n", None)], 16, now=12.0).gone_since, "a node without replicas just left"


def test_a_phase_lasts_until_it_changes_or_makes_progress() -> None:
    fold = Fold()
    memory = DeploymentMemory(AppName("a"), DeploymentName("d"), SPEC)
    fold.restart([put("deployments/a/d", memory)], 1, now=1.0)
    fold.apply([put("deployments/a/d", replace(memory, pending="no room"))], 2, now=2.0)
    assert fold.cluster.phase_since == {KEY: 1.0}
    fold.apply([put("deployments/a/d", replace(memory, progress=1))], 3, now=3.0)
    assert fold.cluster.phase_since == {KEY: 3.0}
    fold.apply([put("deployments/a/d", replace(memory, progress=1, phase=RolloutPhase.STEADY))], 4, now=4.0)
    assert fold.cluster.phase_since == {KEY: 4.0}
