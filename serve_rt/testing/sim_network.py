"""Control calls between simulated processes: our real gRPC services over wires that can be cut, slowed and broken.

`SimNetwork` is the `ControlWire` that `serve_rt.credentials` hands to simulated processes: `control_channel` and
`control_server` give a `SimChannel` and a `SimServer`, so stubs, handlers, messages and errors are the real ones and
only what is between them is made up. Streams keep their order, as TCP does; what faults do to them is in `sim_pipe.py`.

What it does as gRPC does: a call to where nobody listens fails at once, one to a machine that is off or cut away when
its time is up; a stream whose other end died breaks at once, one whose wire is cut when keepalive finds out; a handler
whose caller is gone is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from serve_rt.credentials import simulated_wire
from serve_rt.testing.sim_frames import FrameCall, OpenStream, Replies
from serve_rt.testing.sim_loop import SimLoop, SimProcess, current_process
from serve_rt.testing.sim_pipe import Broken, Pipe, Wires
from serve_rt.testing.sim_rpc import Context, Details, answer_of, rpc_error

CONNECT_S = 1.0
"""Until a connection to a machine that does not answer is given up."""


class SimNetwork:
    def __init__(self, loop: SimLoop, wires: Wires) -> None:
        self.loop, self.wires = loop, wires
        self._servers: dict[str, SimServer] = {}
        self._calls: dict[OpenStream, None] = {}
        self.duplicate_pushes = 0
        """So many of the next messages from callers arrive twice."""
        loop.connect = self._connect

    def process(self, name: str, node: str) -> SimProcess:
        """A process whose control calls travel here."""
        made = SimProcess(self.loop, name, node)
        made.context_var(simulated_wire, self)
        made.on_end.append(lambda: self._ended(made))
        return made

    # --- what serve_rt.credentials asks for -----------------------------------------------------------------------

    def channel(self, address: str) -> grpc.aio.Channel:
        return cast(grpc.aio.Channel, SimChannel(self, _this_process(), address))

    def server(self) -> grpc.aio.Server:
        return cast(grpc.aio.Server, SimServer(self, _this_process()))

    # --- who listens ----------------------------------------------------------------------------------------------

    def listen(self, address: str, server: SimServer) -> None:
        self._servers[address] = server

    def silence(self, server: SimServer) -> None:
        for address in [address for address, each in self._servers.items() if each is server]:
            del self._servers[address]

    def reach(self, caller: SimProcess, address: str) -> SimServer:
        """Who serves there. *Errors*: UNAVAILABLE as an AioRpcError; `wires.open` is the caller's question."""
        server = self._servers.get(address)
        if server is None or not server.process.alive:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, f"connection refused by {address}")
        return server

    def _connect(self, host: str, port: int) -> None:
        server = self._servers.get(f"{host}:{port}")
        if server is None or not server.process.alive:
            raise ConnectionRefusedError(f"nobody listens at {host}:{port}")

    # --- streams that are open ------------------------------------------------------------------------------------

    def opened(self, stream: OpenStream) -> None:
        self._calls[stream] = None

    def closed(self, stream: OpenStream) -> None:
        self._calls.pop(stream, None)

    def break_streams(self, between: Callable[[SimProcess, SimProcess], bool], why: str) -> int:
        """Both ends of each stream find it broken; how many there were."""
        broken = [stream for stream in self._calls if between(stream.caller, stream.server.process)]
        for stream in broken:
            stream.broke(why)
        return len(broken)

    def keepalive_fails(self, when: Callable[[SimProcess, SimProcess], bool], why: str) -> None:
        """After keepalive's time the streams for which `when(caller, server)` still holds are broken."""
        self.wires.later(self.wires.keepalive_s(), self.break_streams, when, why)

    def stall(self, between: Callable[[SimProcess, SimProcess], bool]) -> list[OpenStream]:
        """What is said on these streams from now on is under way for long."""
        stalled = [stream for stream in self._calls if between(stream.caller, stream.server.process)]
        for stream in stalled:
            stream.up.stall()
        return stalled

    def give_up_stalled(self, stalled: list[OpenStream], late_s: float) -> None:
        """The callers find them broken now; what they said arrives `late_s` later, and then the servers find out."""
        for stream in stalled:
            stream.down.end(rpc_error(grpc.StatusCode.UNAVAILABLE, "the connection stalled"))
            self.wires.later(late_s, stream.up.unstall)
            self.wires.later(late_s + 1.0, stream.broke, "the connection stalled")

    def _ended(self, process: SimProcess) -> None:
        """The kernel closes what a dead process had open; a machine that is off closes nothing."""
        for server in {each: None for each in self._servers.values() if each.process is process}:
            self.silence(server)
        for stream in [each for each in self._calls if process in (each.caller, each.server.process)]:
            delay = 0.0 if self.wires.powered(process.node) else self.wires.keepalive_s()
            self.loop.call_later(delay, stream.broke, f"{process.name} has ended", context=self.wires.context)


class SimServer:
    """What `control_server` gives: a grpc.aio.Server as far as our processes use one."""

    def __init__(self, network: SimNetwork, process: SimProcess) -> None:
        self._network, self.process = network, process
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._addresses: list[str] = []
        self._next_port = network.wires.next_port

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        self._handlers += handlers

    def add_insecure_port(self, address: str) -> int:
        host, _, port = address.rpartition(":")
        number = int(port) or self._next_port()
        self._addresses.append(f"{host}:{number}")
        return number

    async def start(self) -> None:
        for address in self._addresses:
            self._network.listen(address, self)

    async def stop(self, grace: float | None) -> None:
        self._network.silence(self)
        self._network.break_streams(lambda _, server: server is self.process, "the server stops")

    def method(self, name: str) -> Any:  # Any: grpc's handler of either shape
        for handler in self._handlers:
            found = handler.service(cast(grpc.HandlerCallDetails, Details(name)))
            if found is not None:
                return found
        raise rpc_error(grpc.StatusCode.UNIMPLEMENTED, name)


class SimChannel:
    """What `control_channel` gives: the calls that `wire.services.Stub` makes of it."""

    def __init__(self, network: SimNetwork, caller: SimProcess, address: str) -> None:
        self._network, self._caller, self._address = network, caller, address
        self._streams: dict[Stream, None] = {}

    async def __aenter__(self) -> SimChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        for stream in tuple(self._streams):
            stream.cancel()

    def unary_unary(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        async def call(request: Any, timeout: float | None = None) -> Any:
            data = request_serializer(request)
            try:
                async with asyncio.timeout(timeout):
                    answer = await self._ask(method, data)
            except TimeoutError:
                raise rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, f"{method} took {timeout} s") from None
            return response_deserializer(answer)

        return call

    def unary_stream(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        def call(request: Any, timeout: float | None = None) -> Replies:
            async def once() -> AsyncIterator[Any]:
                yield request

            return Replies(self._stream(method, once(), request_serializer, response_deserializer, unary=True))

        return call

    def stream_stream(self, method: str, request_serializer: Any = None, response_deserializer: Any = None) -> Any:
        def call(requests: AsyncIterator[Any] | None = None, timeout: float | None = None) -> Any:
            if requests is None:  # frames of bytes, read and written one by one
                return FrameCall(self._network, self._caller, self._reach, method)
            return self._stream(method, requests, request_serializer, response_deserializer, unary=False)

        return call

    def stream_unary(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        async def call(requests: AsyncIterator[Any], timeout: float | None = None) -> NoReturn:
            raise rpc_error(grpc.StatusCode.UNIMPLEMENTED, f"{method}: blobs do not travel in a simulation")

        return call

    # --- one question, one answer ---------------------------------------------------------------------------------

    async def _ask(self, method: str, data: bytes) -> bytes:
        wires, caller = self._network.wires, self._caller
        server = await self._reach()
        handler = server.method(method)
        if server.process.node != caller.node:
            await wires.travel(caller.node, server.process.node)
        if not server.process.paused and server.process.alive and server.process.node == caller.node:
            return await answer_of(handler, data)  # the same machine, and nothing can come between
        return await self._ask_elsewhere(server, handler, data)

    async def _ask_elsewhere(self, server: SimServer, handler: Any, data: bytes) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            try:
                result = await answer_of(handler, data)
            except grpc.aio.AioRpcError as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        def ended() -> None:
            if not answer.done():
                answer.set_exception(rpc_error(grpc.StatusCode.UNAVAILABLE, f"{server.process.name} has ended"))

        server.process.on_end.append(ended)
        if not server.process.alive:
            ended()
        serving = server.process.start(serve(), name="rpc")
        try:
            result = await answer
        finally:
            server.process.on_end.remove(ended)
            serving.cancel()
        await self._network.wires.travel(server.process.node, self._caller.node)
        return result

    async def _reach(self) -> SimServer:
        """*Errors*: UNAVAILABLE: nobody listens, or nothing comes back from there."""
        target = self._address.rpartition(":")[0]
        if not self._network.wires.open(self._caller.node, target):
            await asyncio.sleep(CONNECT_S)
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, f"no answer from {self._address}")
        return self._network.reach(self._caller, self._address)

    # --- streams --------------------------------------------------------------------------------------------------

    async def _stream(
        self, method: str, requests: AsyncIterator[Any], serialize: Any, deserialize: Any, *, unary: bool
    ) -> AsyncIterator[Any]:
        server = await self._reach()
        stream = Stream(self._network, self._caller, server, method, unary=unary)
        self._streams[stream] = None
        pump = asyncio.create_task(stream.send_all(requests, serialize), name=f"requests of {method}")
        try:
            while (data := await stream.down.receive()) is not None:
                yield deserialize(data)
        except Broken as broken:
            raise broken.error from None
        finally:
            del self._streams[stream]
            stream.cancel()
            pump.cancel()


class Stream:
    """One streaming call: a pipe each way and the server's task between them."""

    def __init__(self, network: SimNetwork, caller: SimProcess, server: SimServer, method: str, *, unary: bool) -> None:
        self._network, self.caller, self.server, self._unary = network, caller, server, unary
        wires = network.wires
        self.up = Pipe(wires, caller.node, server.process.node)
        self.down = Pipe(wires, server.process.node, caller.node)
        self._handler = server.method(method)
        self._serving = server.process.start(self._serve(), name=f"serve {method}")
        network.opened(self)

    async def send_all(self, requests: AsyncIterator[Any], serialize: Any) -> None:
        async for request in requests:
            data = serialize(request)
            self.up.send(data)
            if self._network.duplicate_pushes and not self._unary:
                self._network.duplicate_pushes -= 1
                self.up.send(data)
        self.up.send(None)

    async def _serve(self) -> None:
        handler = self._handler
        context = Context()
        try:
            if self._unary:
                first = await self.up.receive()
                replies = handler.unary_stream(handler.request_deserializer(first), context)
            else:
                replies = handler.stream_stream(self._requests(handler.request_deserializer), context)
            async for reply in replies:
                self.down.send(handler.response_serializer(reply))
            self.down.send(None)
        except grpc.aio.AbortError:
            self.down.send_end(context.error())
        except Broken:
            pass  # the caller is gone
        finally:
            self._network.closed(self)

    async def _requests(self, deserialize: Any) -> AsyncIterator[Any]:
        while (data := await self.up.receive()) is not None:
            yield deserialize(data)

    def cancel(self) -> None:
        """The caller has left: the handler hears of it when the wire lets it."""
        self._network.closed(self)
        if not self._serving.done() and not self.up.stalled:
            wires = self._network.wires
            there = (self.caller.node, self.server.process.node)
            delay = wires.delay_s(*there) if wires.open(*there) else wires.keepalive_s()
            wires.later(delay, self._serving.cancel)

    def broke(self, why: str) -> None:
        self._network.closed(self)
        self.down.end(rpc_error(grpc.StatusCode.UNAVAILABLE, why))
        self._serving.cancel()


def _this_process() -> SimProcess:
    process = current_process()
    assert process is not None, "control channels and servers are made by simulated processes"
    return process
