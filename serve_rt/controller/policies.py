"""Takes the autoscaler's questions to the policies of the users' own and brings the answers back, twice a second.

One process per policy (`policy_host`): the leader never imports and never unpickles what users wrote. Part of one term
of leadership (`loop` runs it); it ends all its processes with it. A policy that fails is told in the log and by
`serve autoscale --dry-run`; its deployment then keeps its number of replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import grpc.aio

from serve_rt.aio import Clock
from serve_rt.controller.policy_host import AGAIN_S, PolicyError, PolicyHost
from serve_rt.controller.policy_wishes import Question
from serve_rt.controller.scaling import Scaling
from serve_rt.credentials import ClusterToken, control_channel
from serve_rt.errors import ServeException
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import BlobDigest
from serve_rt.model.spec import PolicySpec
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.errors import from_rpc_error
from serve_rt.wire.services import Stub

log = logging.getLogger(__name__)
EVERY_S = 0.5
MAX_POLICIES = 64
FETCH_S = 30.0

_Which = tuple[PolicySpec, BlobDigest | None]


class Policies:
    """*Resources*: `run` ends what it started, also when cancelled."""

    def __init__(
        self,
        scaling: Scaling,
        cluster: Callable[[], Cluster],
        token: ClusterToken,
        clock: Clock,
        on_answer: Callable[[], None],
    ) -> None:
        self._scaling, self._cluster, self._token, self._clock = scaling, cluster, token, clock
        self._on_answer = on_answer
        self._hosts: dict[_Which, PolicyHost] = {}
        self._not_before: dict[_Which, float] = {}
        self._said: dict[_Which, str] = {}

    async def run(self) -> None:
        try:
            while True:
                questions = self._scaling.questions(self._cluster(), self._clock.monotonic(), self._clock.wall())
                await self._end_all_but({(question.policy, question.code) for question in questions})
                await asyncio.gather(*(self._ask(question) for question in questions[:MAX_POLICIES]))
                for question in questions[MAX_POLICIES:]:
                    self._scaling.wishes.failed(question.keys, f"there are more than {MAX_POLICIES} policies")
                if questions:
                    self._on_answer()
                await self._clock.sleep(EVERY_S)
        finally:
            await self._end_all_but(())

    async def _ask(self, question: Question) -> None:
        which = (question.policy, question.code)
        if self._clock.monotonic() < self._not_before.get(which, 0.0):
            return
        try:
            host = self._hosts.get(which) or await self._host(which)
            answer = await host.ask(question.contexts, application=question.application)
        except (ServeException, OSError) as error:
            self._failed(question, which, error)
            return
        self._said.pop(which, None)
        for key, replicas, state in zip(question.keys, answer.replicas, answer.states, strict=True):
            self._scaling.wishes.answered(key, replicas, state, self._clock.monotonic())

    def _failed(self, question: Question, which: _Which, error: Exception) -> None:
        words = str(error)
        self._scaling.wishes.failed(question.keys, words)
        if not isinstance(error, PolicyError) or not words.startswith("policy"):
            self._not_before[which] = self._clock.monotonic() + AGAIN_S
        if self._said.get(which) != words:
            self._said[which] = words
            log.warning("%s", words, extra={"action": "policy_failed", "keys": [str(key) for key in question.keys]})

    async def _host(self, which: _Which) -> PolicyHost:
        policy, code = which
        payload = await self._fetch(policy.payload) if policy.payload is not None else b""
        host = self._hosts[which] = PolicyHost(policy, payload, await self._fetch(code) if code is not None else b"")
        return host

    async def _fetch(self, digest: BlobDigest) -> bytes:
        """From the agent beside us, which gets it from others if need be."""
        cluster = self._cluster()
        ours = cluster.leader.node_id if cluster.leader is not None else None
        nodes = sorted(cluster.nodes.values(), key=lambda node: node.node_id != ours)
        error: ServeException = PolicyError("no agent is registered that could give the policy's code")
        for node in nodes[:3]:
            try:
                async with control_channel(node.address, self._token) as channel:
                    stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"])
                    call = stub.GetBlob(pb.GetBlobRequest(digest=digest), timeout=FETCH_S)
                    return b"".join([chunk.data async for chunk in call])
            except grpc.aio.AioRpcError as refused:
                error = from_rpc_error(refused, f"the code of a policy from {node.node_id}")
        raise error

    async def _end_all_but(self, kept: Iterable[_Which]) -> None:
        for which in self._hosts.keys() - set(kept):
            await self._hosts.pop(which).close()
