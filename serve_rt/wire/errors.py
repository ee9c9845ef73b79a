"""Errors over gRPC: our classes travel by name in trailing metadata and come back as the same class.

A server calls `abort`, a client `from_rpc_error`. Foreign failures become UnavailableError, DeadlineExceededError or a
plain ServeException, never a bare grpc error.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio

from serve_rt import errors

_NAME_KEY = "serve-error"
_ADDRESS_KEY = "serve-leader-address"
_MAX_MESSAGE_CHARS = 6000  # metadata is limited to 8 KiB per header block by default


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """End the RPC with `error` in a form that `from_rpc_error` turns back."""
    code = grpc.StatusCode.INTERNAL
    trailing: list[tuple[str, str]] = []
    if isinstance(error, errors.ServeException):
        code = grpc.StatusCode[error.grpc_code]
        trailing.append((_NAME_KEY, type(error).__name__))
    if isinstance(error, errors.NotLeaderError):
        trailing.append((_ADDRESS_KEY, error.address))
    message = str(error)[:_MAX_MESSAGE_CHARS] or type(error).__name__
    await context.abort(code, message, tuple(trailing))
    raise AssertionError("abort returned")


def from_rpc_error(error: grpc.aio.AioRpcError, what: str) -> errors.ServeException:
    """The error of the tree that `error` stands for; `what` names the call and the peer for people."""
    metadata = {key: str(value) for key, value in (error.trailing_metadata() or ())}
    details = error.details() or error.code().name
    name = metadata.get(_NAME_KEY, "")
    if name == "NotLeaderError":
        return errors.NotLeaderError(details, address=metadata.get(_ADDRESS_KEY, ""))
    kind = getattr(errors, name, None) if name else None
    if isinstance(kind, type) and issubclass(kind, errors.ServeException):
        try:
            return kind(details)
        except TypeError:
            return errors.ServeException(details)
    return _foreign(error.code(), f"{what}: {details}")


def _foreign(code: grpc.StatusCode, message: str) -> errors.ServeException:
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.UnavailableError(message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(message)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return errors.UnauthenticatedError(message)
    return errors.ServeException(message)
