"""Which blobs leave the disk, and when."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from serve_rt.agents.blob_sweep import BLOB_GRACE_S, BlobSweep, named_blobs
from serve_rt.agents.blobs import BlobStore
from serve_rt.aio import ManualClock
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken
from serve_rt.model.cluster import Cluster, DeploymentMemory, Versioned
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId
from serve_rt.model.replica import Goal
from serve_rt.model.spec import ApplicationSpec, AutoscalingOptions, DeploymentSpec, PolicySpec
from tests.agents.values import assignment, options

APP, NODE = AppName("a"), NodeId("n1")


def digest_of(text: str) -> BlobDigest:
    return BlobDigest(hashlib.sha256(text.encode()).hexdigest())


def spec(payload: str, code: str = "", policy: str = "") -> DeploymentSpec:
    scaling = AutoscalingOptions(policy=PolicySpec("m:p", payload=digest_of(policy))) if policy else None
    made = assignment(payload=digest_of(payload)).spec
    return replace(made, code=digest_of(code) if code else None, options=options(autoscaling=scaling))


def application(*specs: DeploymentSpec, policy: str = "") -> ApplicationSpec:
    decides = PolicySpec("m:p", payload=digest_of(policy)) if policy else None
    return ApplicationSpec(APP, "d", DeploymentName("hello"), specs, autoscaling_policy=decides)


def test_everything_that_a_record_names_is_needed() -> None:
    key = DeploymentKey(APP, DeploymentName("hello"))
    leaving = replace(assignment(goal=Goal.DRAIN), spec=spec("leaving"))
    cluster = Cluster(
        incarnation="x",
        apps={APP: Versioned(application(spec("asked", "code", "policy"), policy="of the whole"), 1)},
        versions={APP: {1: application(spec("version 1")), 2: application(spec("version 2"))}},
        deployments={key: DeploymentMemory(*key_parts(key), spec("target"), versions=(spec("former"),))},
        assignments={leaving.replica_id: leaving},
    )
    words = ("asked", "code", "policy", "of the whole", "version 1", "version 2", "target", "former", "leaving", "kept")
    assert named_blobs(cluster, [spec("kept")]) == {digest_of(word) for word in words}


def key_parts(key: DeploymentKey) -> tuple[AppName, DeploymentName]:
    return key.app, key.deployment


async def _bytes(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


def test_what_nobody_names_goes_after_its_grace_and_not_while_it_is_asked_for(tmp_path: Path) -> None:
    asyncio.run(_swept(tmp_path))


async def _swept(tmp_path: Path) -> None:
    state = StateDir(tmp_path).create()
    blobs = BlobStore(state, ClusterToken.create(state.token), lambda _: (), lambda _: None)
    for text in ("wanted", "gone", "asked again"):
        await blobs.put(digest_of(text), _bytes(text))
    clock, told = ManualClock(), [Cluster()]
    sweep = BlobSweep(NODE, blobs, lambda: told[0], list, lambda _: None, clock)
    assert sweep.due() == [], "the store has not been read"
    clock.advance(2 * BLOB_GRACE_S)
    told[0] = Cluster(incarnation="x", apps={APP: Versioned(application(spec("wanted")), 1)})
    assert sweep.due() == [], "unnamed since now"
    clock.advance(0.9 * BLOB_GRACE_S)
    await blobs.put(digest_of("asked again"), _bytes("asked again"))
    assert sweep.due() == []
    clock.advance(0.2 * BLOB_GRACE_S)
    assert sweep.due() == [digest_of("gone")]
    (state.blobs / f"{digest_of('gone')}.d").mkdir()
    blobs.drop(digest_of("gone"))()
    assert {path.name for path in state.blobs.iterdir()} == {digest_of("wanted"), digest_of("asked again")}
    clock.advance(BLOB_GRACE_S)
    assert sweep.due() == [digest_of("asked again")]
