"""What both ends of a simulated call need of grpc's own: a handler's context, the question of a method, an error.

Used by `sim_network`.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio


class Context:
    """A handler's ServicerContext, as far as `wire.errors.abort` uses one."""

    def __init__(self) -> None:
        self._code, self._details = grpc.StatusCode.UNKNOWN, ""
        self._trailing: tuple[tuple[str, str], ...] = ()

    async def abort(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing
        raise grpc.aio.AbortError

    def error(self) -> grpc.aio.AioRpcError:
        return rpc_error(self._code, self._details, self._trailing)


class Details:
    invocation_metadata = ()

    def __init__(self, method: str) -> None:
        self.method = method


async def answer_of(handler: Any, data: bytes) -> bytes:
    context = Context()
    try:
        reply: bytes = handler.response_serializer(
            await handler.unary_unary(handler.request_deserializer(data), context)
        )
    except grpc.aio.AbortError:
        raise context.error() from None
    return reply


def rpc_error(code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...] = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)
