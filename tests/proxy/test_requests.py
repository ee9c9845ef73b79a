"""HTTP through a real proxy: statuses, headers, bodies, streams, clients that leave."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest

from serve_rt.errors import Outcome
from serve_rt.model.routes import Availability
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.server import ServerRequest
from tests.proxy.front import APP, front
from tests.routing.replicas import KEY, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def describe(request: ServerRequest) -> None:
    http = request.open.http
    flat = [value.decode("latin-1") for value in http.headers]
    said = {
        "path": http.path,
        "root_path": http.root_path,
        "query": http.query_string.decode(),
        "method": http.method,
        "headers": dict(zip(flat[::2], flat[1::2], strict=True)),
        "body": request.open.body.decode(),
        "route": request.open.route,
        "left_ms": request.open.time_left_ms,
        "model": request.open.multiplexed_model_id,
    }
    request.head(
        200, (b"content-type", b"application/json", b"connection", b"x"), body=json.dumps(said).encode(), end=True
    )
    request.finished()


async def test_a_request_goes_through_and_comes_back() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        one.handler.act = describe
        await proxy.serve(one, app=replace(APP, route_prefix="/api"))
        answered = await proxy.get(
            "/api/x?q=1",
            "x-request-id: mine\r\nx-forwarded-for: 6.6.6.6\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n"
            "serve_multiplexed_model_id: m1\r\nx-request-timeout-seconds: 5\r\n",
            "POST",
            b"hello",
        )
        said = json.loads(answered.body)
        assert answered.status == 200 and answered.headers["x-request-id"] == "mine"
        assert "connection" not in answered.headers
        assert (said["path"], said["root_path"], said["query"]) == ("/api/x", "/api", "q=1")
        assert (said["method"], said["body"], said["route"], said["model"]) == ("POST", "hello", "/api", "m1")
        assert 0 < said["left_ms"] <= 5000
        assert said["headers"]["x-forwarded-for"] == "127.0.0.1" and said["headers"]["x-request-id"] == "mine"
        assert "x-hop" not in said["headers"] and said["headers"]["host"] == "test"


async def test_longest_prefix_by_segments() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one, app=replace(APP, route_prefix="/a"))
        assert [(await proxy.get(path)).status for path in ("/a", "/a/x", "/a?x", "/ab", "/")] == [
            200,
            200,
            200,
            404,
            404,
        ]
        missing = await proxy.get("/ab")
        assert missing.body == b"Path '/ab' not found. Ping http://.../-/routes for available routes."


async def test_own_pages() -> None:
    async with front() as proxy:
        assert (await proxy.get("/-/healthz")).status == 503
        assert (await proxy.get("/-/routes")).status == 503
        assert (await proxy.get("/")).status == 503, "who has no routes yet knows of no path that there is none"
        await proxy.serve(await proxy.replicas.start("one"))
        healthy = await proxy.get("/-/healthz")
        assert (healthy.status, healthy.body) == (200, b"success") and "x-routes-age" not in healthy.headers
        proxy.age.age_s = 12.0
        assert (await proxy.get("/-/healthz")).headers["x-routes-age"] == "12.0"
        assert json.loads((await proxy.get("/-/routes")).body) == {"/": "app"}
        await proxy.get("/")
        counters = json.loads((await proxy.get("/-/counters")).body)
        assert counters["opens_sent"] == counters["heads_received"] == 1 and counters["reserved"] == 0
        proxy.app.draining = True
        assert (await proxy.get("/-/healthz")).status == 503


async def test_statuses_of_what_goes_wrong() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        await proxy.serve(one, app=replace(APP, queue_timeout_s=0.05, max_body_bytes=100), max_queued_requests=1)

        def fail(request: ServerRequest) -> None:
            request.fail(Outcome.STARTED, "UserError", "secret detail")
            request.finished()

        one.handler.act = fail
        failed = await proxy.get("/", "x-request-id: abc\r\n")
        assert failed.status == 500 and b"abc" in failed.body and b"secret" not in failed.body
        assert (await proxy.get("/", method="POST", body=b"x" * 101)).status == 413
        assert (await proxy.get("/", "x-request-timeout-seconds: nonsense\r\n")).status == 400
        one.handler.act = one.handler.hold
        late = await proxy.get("/", "x-request-timeout-seconds: 0.05\r\n")
        assert late.status == 408 and b"timed out after 0.05s" in late.body
        running = asyncio.ensure_future(proxy.get("/", method="POST"))
        await until(lambda: len(one.handler.held) == 1, "it runs")
        waited, refused = await asyncio.gather(proxy.get("/"), proxy.get("/"))
        assert (waited.status, refused.status) == (503, 503) and "retry-after" in refused.headers
        await one.kill()
        assert (await running).status == 502
        await proxy.serve(availability=Availability.FAILED, message="broken")
        gone = await proxy.get("/")
        assert gone.status == 503 and gone.body == b"broken"


async def test_backpressure_status_is_the_deployments() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one, max_queued_requests=0, backpressure_status=429, backpressure_retry_after_s=7.0)
        running = asyncio.ensure_future(proxy.get("/"))
        await until(lambda: len(one.handler.held) == 1, "it runs")
        began = time.monotonic()
        refused = await proxy.get("/")
        assert (refused.status, refused.headers["retry-after"]) == (429, "7") and time.monotonic() - began < 0.5
        one.handler.let_go()
        await running


async def test_a_client_that_leaves_cancels_running_and_queued_requests() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one", capacity=1)
        one.handler.act = one.handler.hold
        await proxy.serve(one)
        router = proxy.routers.router(KEY)
        writers = []
        for _ in range(2):
            _, writer = await proxy.connect()
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            writers.append(writer)
        await until(lambda: len(one.handler.held) == 1 and router.waiting == 1, "one runs, one waits")
        left_s = time.monotonic()
        for writer in writers:
            writer.close()
        await until(lambda: one.service.ongoing == 0 and router.waiting == 0 and router.reserved == 0, "all over")
        assert time.monotonic() - left_s < 0.3 and len(one.handler.started) == 1


async def test_a_stream_comes_as_it_is_made_and_a_cut_one_is_never_complete() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        asked: list[ServerRequest] = []
        one.handler.act = asked.append
        await proxy.serve(one)
        reader, writer = await proxy.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: bool(asked), "it runs")
        asked[0].head(200, (b"content-type", b"text/plain"))
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        asked[0].data(b"one")
        assert await reader.readuntil(b"one\r\n") == b"3\r\none\r\n"
        asked[0].fail(Outcome.STARTED, "UserError", "late")
        asked[0].finished()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"0\r\n\r\n")


async def test_a_long_body_streams_up_while_the_answer_streams_down() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")

        async def count(request: ServerRequest) -> None:
            size = 0
            while (part := await request.receive()) is not None:
                size += len(part.payload)
                if part.end:
                    break
            request.head(200, (), body=str(size).encode(), end=True)
            request.finished()

        running: list[asyncio.Task[None]] = []
        one.handler.act = lambda request: running.append(asyncio.ensure_future(count(request)))
        await proxy.serve(one, app=replace(APP, body_buffer_bytes=10_000, max_body_bytes=5_000_000))
        assert (await proxy.get("/", method="POST", body=b"x" * 3_000_000)).body == b"3000000"
        chunked = (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 3 + b"0\r\n\r\n"
        )
        assert (await proxy.raw(chunked)).endswith(b"\r\n\r\n15")
        await asyncio.gather(*running)


async def test_pipelined_and_kept_alive() -> None:
    async with front() as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        reader, writer = await proxy.connect()
        for name in ("a", "b", "c"):
            writer.write(f"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: {name}\r\n\r\n".encode())
        for name in ("a", "b", "c"):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == name.encode()


async def test_head_and_bodiless_answers_keep_their_shape() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        head = await proxy.raw(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\r\n\r\n")

        def nothing(request: ServerRequest) -> None:
            request.head(204, (), end=True)
            request.finished()

        one.handler.act = nothing
        empty = await proxy.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert empty.startswith(b"HTTP/1.1 204") and b"content-length" not in empty and b"chunked" not in empty


async def test_headers_that_would_split_an_answer_are_our_error() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")

        def split(request: ServerRequest) -> None:
            request.head(200, (b"x-evil", b"a\r\nset-cookie: b"), body=b"x", end=True)
            request.finished()

        one.handler.act = split
        await proxy.serve(one)
        answered = await proxy.get("/")
        assert answered.status == 500 and "set-cookie" not in answered.headers


async def test_a_lame_duck_answers_what_it_has_and_takes_nothing_new() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        one.handler.act = one.handler.hold
        await proxy.serve(one)
        idle_reader, idle_writer = await proxy.connect()
        idle_writer.write(b"GET /-/healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        await idle_reader.readuntil(b"success")
        running = asyncio.ensure_future(proxy.get("/"))
        await until(lambda: len(one.handler.held) == 1, "it runs")
        draining = asyncio.ensure_future(proxy.server.drain())
        await until(lambda: proxy.server.draining, "draining")
        idle_writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: len(one.handler.held) == 2, "an idle connection may still ask")
        one.handler.let_go()
        answered = await running
        assert answered.status == 200 and answered.headers["connection"] == "close"
        assert b"connection: close" in await idle_reader.readuntil(b"\r\n\r\n")
        assert await draining
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_websocket_messages_one_to_one() -> None:
    import websockets

    async with front() as proxy:
        one = await proxy.replicas.start("one")

        async def echo(request: ServerRequest) -> None:
            request.head(101, (), subprotocol="chat")
            while (part := await request.receive()) is not None:
                if part.kind == pb.DATA_KIND_WS_CLOSE:
                    closes.append(part.code)
                    break
                if part.payload == b"bye":
                    request.data(b"", end=True, kind=pb.DATA_KIND_WS_CLOSE, code=4001, reason="so long")
                    break
                request.data(part.payload, kind=part.kind)
            request.finished()

        closes: list[int] = []
        running: list[asyncio.Task[None]] = []
        one.handler.act = lambda request: running.append(asyncio.ensure_future(echo(request)))
        await proxy.serve(one)
        url = f"ws://127.0.0.1:{proxy.port}/"
        async with websockets.connect(url, subprotocols=[websockets.Subprotocol("chat")], max_size=None) as socket:
            assert socket.subprotocol == "chat"
            for message in ("text", b"bytes", b"x" * 600_000):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send("bye")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4001
        async with websockets.connect(url, subprotocols=[websockets.Subprotocol("chat")]):
            pass
        await until(lambda: closes == [1000], "the application heard the client leave")
        await asyncio.gather(*running)
        await until(lambda: one.service.ongoing == 0, "slots are free")
