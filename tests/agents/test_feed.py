"""Routes as this node sees them: the leader's word, corrected by what the agent observes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from serve_rt.agents.feed import Feed, LocalReplica, build_table, leaders_table
from serve_rt.config.paths import StateDir
from serve_rt.model.cluster import Cluster, Versioned
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId, ReplicaId
from serve_rt.model.replica import ReplicaState
from serve_rt.model.routes import DeploymentRoute, ReplicaRoute, RouteTable
from serve_rt.model.spec import ApplicationSpec
from serve_rt.wire import records

HERE, THERE = NodeId("here"), NodeId("there")
MINE, OTHER = ReplicaId("app#d#mine"), ReplicaId("app#d#other")
KEY = DeploymentKey(AppName("app"), DeploymentName("d"))
ROUTE = DeploymentRoute(
    KEY.app,
    KEY.deployment,
    replicas=(ReplicaRoute(MINE, 1, "127.0.0.1:20001", HERE), ReplicaRoute(OTHER, 1, "127.0.0.1:20002", THERE)),
)
APP = ApplicationSpec(KEY.app, "d1", KEY.deployment, ())
CLUSTER = Cluster(revision=5, incarnation="life-1", apps={KEY.app: Versioned(APP, 4)}, routes={KEY: ROUTE})


def ids(table: RouteTable) -> list[tuple[str, int]]:
    return [(r.replica_id, r.incarnation) for d in table.deployments for r in d.replicas]


def seen(state: ReplicaState, incarnation: int = 1, *, running: bool = True) -> dict[ReplicaId, LocalReplica]:
    return {MINE: LocalReplica(state, running, incarnation, f"127.0.0.1:{20001 + incarnation}")}


def test_while_the_agent_knows_nothing_the_leaders_word_stands() -> None:
    assert len(ids(build_table(leaders_table("c", CLUSTER), HERE, None))) == 2


def test_a_dead_local_replica_leaves_at_once_and_others_stay() -> None:
    word = leaders_table("c", CLUSTER)
    assert ids(build_table(word, HERE, seen(ReplicaState.BACKOFF, running=False))) == [(OTHER, 1)]
    assert ids(build_table(word, HERE, {})) == [(OTHER, 1)]
    assert ids(build_table(word, HERE, seen(ReplicaState.UNHEALTHY))) == [(OTHER, 1)]


def test_a_restarted_replica_comes_back_with_its_incarnation_when_it_is_ready() -> None:
    word = leaders_table("c", CLUSTER)
    assert ids(build_table(word, HERE, seen(ReplicaState.STARTING, 2))) == [(OTHER, 1)]
    table = build_table(word, HERE, seen(ReplicaState.READY, 2))
    assert ids(table) == [(MINE, 2), (OTHER, 1)]
    assert table.deployments[0].replicas[0].address == "127.0.0.1:20003"


def feed_at(path: Path) -> Feed:
    return Feed(StateDir(path), "c", HERE)


def test_the_snapshot_survives_and_is_corrected_anew(tmp_path: Path) -> None:
    async def story() -> None:
        feed = feed_at(tmp_path)
        feed.local = lambda: seen(ReplicaState.BACKOFF, running=False)
        feed.cluster_changed(CLUSTER)
        saved = records.decode((tmp_path / "routes.json").read_bytes(), RouteTable)
        assert ids(saved) == [(OTHER, 1)]
        again = feed_at(tmp_path)  # a restarted agent, etcd away; the replica is ready again
        again.local = lambda: seen(ReplicaState.READY, 2)
        again.refresh()
        assert again.table is not None
        assert ids(again.table) == [(MINE, 2), (OTHER, 1)]

    asyncio.run(story())


def test_a_wiped_store_does_not_take_the_routes_away(tmp_path: Path) -> None:
    async def story() -> None:
        feed = feed_at(tmp_path)
        feed.local = lambda: seen(ReplicaState.READY)
        feed.cluster_changed(CLUSTER)
        feed.cluster_changed(Cluster(revision=2, incarnation="life-2"))
        assert feed.table is not None
        assert len(ids(feed.table)) == 2
        feed.cluster_changed(replace(CLUSTER, incarnation="life-2", routes={}))
        assert ids(feed.table) == []

    asyncio.run(story())


def test_a_slow_subscriber_gets_the_newest_only(tmp_path: Path) -> None:
    async def story() -> None:
        feed = feed_at(tmp_path)
        feed.cluster_changed(CLUSTER)
        reading = feed.subscribe()
        first = records.decode(await anext(reading), RouteTable)
        for revision in (6, 7, 8):
            nodes = replace(
                CLUSTER,
                revision=revision,
                apps={KEY.app: Versioned(replace(APP, route_prefix=f"/{revision}"), revision)},
            )
            feed.cluster_changed(nodes)
        second = records.decode(await anext(reading), RouteTable)
        assert (first.revision, second.revision) == (5, 8)
        await reading.aclose()  # type: ignore[attr-defined]  # an async generator behind its interface

    asyncio.run(story())
