"""Channels and servers with the options that were measured to work.

`grpc.http2.ping_timeout_ms` is the option that finds a frozen peer: `grpc.keepalive_timeout_ms` alone does nothing
below its 60 s default (grpc-core arms that timer only when another is armed). `grpc.so_reuseport` must be off, or two
servers share a port in silence.

Two kinds: *control* (agents, controllers, the agent's side of replicas): the token travels in the metadata of every
call and an interceptor refuses calls without it before anything is parsed. *stream* (requests): the token is in the
stream's Hello, checked by serve_rt.transport.server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol

import grpc
import grpc.aio

from serve_rt.credentials.token import METADATA_KEY, ClusterToken

CONTROL_MESSAGE_BYTES = 16 << 20
STREAM_MESSAGE_BYTES = 4 << 20
CONNECT_TIMEOUT_MS = 2_000
"""What grpc-core calls min_reconnect_backoff is the time one attempt to connect may take, HTTP/2's greeting included:
several round trips. It does not slow down the next attempt after a refused one."""

_COMMON_CHANNEL: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_COMMON_SERVER: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def _message_limit(limit_bytes: int) -> tuple[tuple[str, Any], ...]:
    return (("grpc.max_send_message_length", limit_bytes), ("grpc.max_receive_message_length", limit_bytes))


class ControlWire(Protocol):
    """What control calls travel on. The real one is gRPC over TCP; a simulation has its own."""

    def channel(self, address: str) -> grpc.aio.Channel: ...

    def server(self) -> grpc.aio.Server: ...


simulated_wire: ContextVar[ControlWire | None] = ContextVar("simulated wire", default=None)
"""Set by a simulation in the contexts of its processes, by nobody else."""


def control_channel(address: str, token: ClusterToken | None) -> grpc.aio.Channel:
    """A channel for Agent, Controller and Replica calls to `address` (host:port)."""
    if (wire := simulated_wire.get()) is not None:
        return wire.channel(address)
    options = (
        *_COMMON_CHANNEL,
        *_message_limit(CONTROL_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    )
    interceptors = _token_interceptors(token) if token is not None else ()
    return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)


def stream_channel(address: str) -> grpc.aio.Channel:
    """A channel for one `Requests` stream: a peer that stops answering is found 3.7 s after its last word."""
    if (wire := simulated_wire.get()) is not None:
        return wire.channel(address)
    options = (
        *_COMMON_CHANNEL,
        *_message_limit(STREAM_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 1_700),
        ("grpc.keepalive_timeout_ms", 2_000),
        ("grpc.http2.ping_timeout_ms", 2_000),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    )
    return grpc.aio.insecure_channel(address, options=options)


def control_server(token: ClusterToken) -> grpc.aio.Server:
    """A server whose every RPC needs the token. The caller adds handlers and the port."""
    if (wire := simulated_wire.get()) is not None:
        return wire.server()
    options = (*_COMMON_SERVER, *_message_limit(CONTROL_MESSAGE_BYTES))
    return grpc.aio.server(interceptors=(_TokenGuard(token),), options=options)


def stream_server(token: ClusterToken) -> grpc.aio.Server:
    """A replica's server: `Requests` streams (token in their Hello) beside control RPCs (token in metadata)."""
    options = (*_COMMON_SERVER, *_message_limit(STREAM_MESSAGE_BYTES), ("grpc.keepalive_time_ms", 2_000))
    options += (("grpc.keepalive_timeout_ms", 2_000), ("grpc.http2.ping_timeout_ms", 2_000))
    guard = _TokenGuard(token, unguarded=("/serve_rt.v1.Requests/Exchange",))
    return grpc.aio.server(interceptors=(guard,), options=options)


class _TokenGuard(grpc.aio.ServerInterceptor):
    """Refuses a call that does not show the token, before its request is read."""

    def __init__(self, token: ClusterToken, unguarded: tuple[str, ...] = ()) -> None:
        self._token = token
        self._unguarded = unguarded

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method in self._unguarded:
            return await continuation(handler_call_details)
        shown = dict(handler_call_details.invocation_metadata or ()).get(METADATA_KEY, b"")
        if isinstance(shown, bytes) and self._token.matches(shown):
            return await continuation(handler_call_details)
        handler = await continuation(handler_call_details)
        return _refuse_like(handler)


def _refuse_like(handler: grpc.RpcMethodHandler[Any, Any] | None) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same shape that refuses: gRPC needs the shape to know how to answer."""

    async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong or missing cluster token")

    shape = (bool(handler and handler.request_streaming), bool(handler and handler.response_streaming))
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[shape]
    return make(refuse)


def _token_interceptors(token: ClusterToken) -> tuple[grpc.aio.ClientInterceptor, ...]:
    return (_UnaryUnaryToken(token), _UnaryStreamToken(token), _StreamUnaryToken(token), _StreamStreamToken(token))


class _WithToken:
    def __init__(self, token: ClusterToken) -> None:
        self._metadata = token.metadata()

    def _add(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(tuple(details.metadata or ())), *self._metadata)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


class _UnaryUnaryToken(_WithToken, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._add(client_call_details), request)


class _UnaryStreamToken(_WithToken, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._add(client_call_details), request)


class _StreamUnaryToken(_WithToken, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._add(client_call_details), request_iterator)


class _StreamStreamToken(_WithToken, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._add(client_call_details), request_iterator)
