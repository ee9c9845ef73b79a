"""gRPC services straight from their descriptors: no generated stub files, no second list of methods.

Server: `service_handler(descriptor, servicer)` binds every RPC of the service to the servicer's method of the same
name in snake_case (`PutBlob` → `put_blob(request, context)`); a missing method is an error when built. A
ServeException raised by a method reaches the caller as itself (serve_rt.wire.errors).

Client: `Stub(channel, descriptor)` has one callable per RPC, by the RPC's own name.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from serve_rt.errors import ServeException
from serve_rt.wire.errors import abort

log = logging.getLogger(__name__)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def service_handler(service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
    """All methods of `service`, served by `servicer`."""
    methods = {method.name: _method_handler(method, servicer) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _method_handler(method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour = getattr(servicer, snake(method.name), None)
    if behaviour is None:
        raise TypeError(f"{type(servicer).__name__} lacks {snake(method.name)}() for {method.full_name}")
    request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[(method.client_streaming, method.server_streaming)]
    guarded = _guard_stream(behaviour) if inspect.isasyncgenfunction(behaviour) else _guard_call(behaviour)
    return make(guarded, request_deserializer=request.FromString, response_serializer=reply.SerializeToString)


def _guard_call(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except ServeException as error:
            await abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # the edge of the process: a bug here must not kill the server
            log.exception("%s failed", behaviour.__name__, extra={"action": "rpc_failed"})
            await abort(context, error)

    return call


def _guard_stream(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for reply in behaviour(request, context):
                yield reply
        except ServeException as error:
            await abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # the edge of the process: a bug here must not kill the server
            log.exception("%s failed", behaviour.__name__, extra={"action": "rpc_failed"})
            await abort(context, error)

    return call


class Stub:
    """`stub.Deploy(request, timeout=5)`, for every RPC of the service. Attributes are grpc.aio multi-callables."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            setattr(self, method.name, _multi_callable(channel, method))

    def __getattr__(self, name: str) -> Any:  # for type checkers: attributes are made in __init__
        raise AttributeError(name)


def _multi_callable(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[(method.client_streaming, method.server_streaming)]
    assert method.containing_service is not None
    return make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
