"""Calls to etcd: which endpoint, which token, how long, how often.

Every unary call of `EtcdClient` goes through `Rpc.call`; the watch opens its stream through `Rpc.open_watch`. One
channel per endpoint, all calls on the current one; a failure turns to the next. Nothing here knows what a key is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from serve_rt.aio import Backoff
from serve_rt.errors import ConfigError, EtcdUnavailableError
from serve_rt.etcd import messages
from serve_rt.etcd.channel import EtcdTls, etcd_channel
from serve_rt.etcd.failures import Fate, fate_of, translated

FIRST_RETRY_S = 0.02
MAX_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Method:
    path: str
    request: str
    response: str
    idempotent: bool = False
    """Asking twice does what asking once does, so an answer that was lost is asked for again."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


RANGE = Method("KV/Range", "RangeRequest", "RangeResponse", idempotent=True)
PUT = Method("KV/Put", "PutRequest", "PutResponse")
DELETE_RANGE = Method("KV/DeleteRange", "DeleteRangeRequest", "DeleteRangeResponse")
TXN = Method("KV/Txn", "TxnRequest", "TxnResponse")
COMPACT = Method("KV/Compact", "CompactionRequest", "CompactionResponse")
LEASE_GRANT = Method("Lease/LeaseGrant", "LeaseGrantRequest", "LeaseGrantResponse")
LEASE_REVOKE = Method("Lease/LeaseRevoke", "LeaseRevokeRequest", "LeaseRevokeResponse", idempotent=True)
# A stream in etcd's schema. One request, one answer and the end is the same on the wire as a unary call, and leaves no
# stream to supervise.
LEASE_KEEP_ALIVE = Method("Lease/LeaseKeepAlive", "LeaseKeepAliveRequest", "LeaseKeepAliveResponse", idempotent=True)
AUTHENTICATE = Method("Auth/Authenticate", "AuthenticateRequest", "AuthenticateResponse", idempotent=True)
STATUS = Method("Maintenance/Status", "StatusRequest", "StatusResponse", idempotent=True)
WATCH = Method("Watch/Watch", "WatchRequest", "WatchResponse")

Metadata = tuple[tuple[str, str], ...]


class Endpoint:
    """One address and its channel; a stub is made once per method."""

    def __init__(self, address: str, tls: EtcdTls | None) -> None:
        self.address = address
        self._channel = etcd_channel(address, tls)
        self._stubs: dict[str, Any] = {}

    def unary(self, method: Method) -> Any:
        stub = self._stubs.get(method.path)
        if stub is None:
            path, codecs = _wire(method)
            stub = self._stubs[method.path] = self._channel.unary_unary(path, **codecs)
        return stub

    def watch(self, metadata: Metadata) -> Any:
        path, codecs = _wire(WATCH)
        return self._channel.stream_stream(path, **codecs)(metadata=metadata)

    async def close(self) -> None:
        await self._channel.close()


def _wire(method: Method) -> tuple[str, dict[str, Any]]:
    codecs = {
        "request_serializer": messages.CLASSES[method.request].SerializeToString,
        "response_deserializer": messages.CLASSES[method.response].FromString,
    }
    return f"/etcdserverpb.{method.path}", codecs


class Rpc:
    """*Resources*: the creator awaits `close()`; calls still open then fail with EtcdUnavailableError."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: EtcdTls | None,
        user: str | None,
        password: str | None,
        timeout_s: float,
    ) -> None:
        if not endpoints:
            raise ConfigError("no etcd endpoint given: name at least one host:port or unix:/path")
        self._endpoints = [Endpoint(address, tls) for address in endpoints]
        self._turn = random.randrange(len(self._endpoints))
        self._user, self._password = user, password
        self._token: Metadata = ()
        self._authenticating = asyncio.Lock()
        self.timeout_s = timeout_s
        self._closed = False

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoints[self._turn]

    def turn_from(self, failed: Endpoint) -> None:
        """Use the next endpoint, unless another call has already turned away from `failed`."""
        if failed is self.endpoint:
            self._turn = (self._turn + 1) % len(self._endpoints)

    async def call(self, method: Method, request: Any, timeout_s: float | None = None) -> Any:
        """The answer. Repeated within the time limit as far as `Fate` allows."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S)
        renewed = False
        while True:
            endpoint, token, sent = self.endpoint, self._token, False
            try:
                token = await self._metadata()
                sent = True
                return await self._once(endpoint, method, request, deadline, token)
            except grpc.aio.AioRpcError as error:
                fate = fate_of(error)
                if fate is Fate.UNKNOWN and not sent:
                    fate = Fate.NOT_SENT  # it was the token we did not get
                if fate is Fate.STALE_TOKEN and self._user is not None and not renewed:
                    self.forget_token(token)
                    renewed = True
                    continue
                may_repeat = fate is Fate.NOT_SENT or (fate is Fate.UNKNOWN and method.idempotent)
                if fate is not Fate.REFUSED:
                    self.turn_from(endpoint)
                pause_s = backoff.next_s()
                if not may_repeat or time.monotonic() + pause_s >= deadline:
                    raise translated(method.name, error, fate, write=not method.idempotent) from error
                await asyncio.sleep(pause_s)

    async def _once(self, endpoint: Endpoint, method: Method, request: Any, deadline: float, token: Metadata) -> Any:
        remaining_s = max(0.001, deadline - time.monotonic())
        if method.idempotent and len(self._endpoints) > 1:
            remaining_s = min(remaining_s, max(0.5, self.timeout_s / 2))  # leave time to ask another member
        try:
            return await endpoint.unary(method)(request, timeout=remaining_s, metadata=token)
        except asyncio.CancelledError:
            self._raise_if_closed(method)
            raise

    def _raise_if_closed(self, method: Method) -> None:
        """Closing a channel cancels its calls; to a caller that nobody cancelled that is an unreachable etcd."""
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise EtcdUnavailableError(
                f"etcd {method.name}: the client was closed", maybe_applied=not method.idempotent
            ) from None

    async def open_watch(self, endpoint: Endpoint) -> Any:
        """A new watch stream; a member that is cut off from its quorum ends it instead of staying silent."""
        try:
            token = await self._metadata()
        except grpc.aio.AioRpcError as error:
            raise translated("Authenticate", error, fate_of(error), write=False) from error
        return endpoint.watch((*token, ("hasleader", "true")))

    async def _metadata(self) -> Metadata:
        if self._user is None or self._token:
            return self._token
        async with self._authenticating:
            if not self._token:
                request = messages.AuthenticateRequest(name=self._user, password=self._password or "")
                answer = await self.endpoint.unary(AUTHENTICATE)(request, timeout=self.timeout_s)
                self._token = (("token", answer.token),)
            return self._token

    def forget_token(self, stale: Metadata | None = None) -> None:
        """Fetch a new token before the next call, unless another call has already fetched one since `stale`."""
        if stale is None or stale == self._token:
            self._token = ()

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        self._closed = True
        for endpoint in self._endpoints:
            await endpoint.close()
