"""What a client gets for what a handler returns, from a real replica process."""

from __future__ import annotations

import asyncio
import json

from serve_rt.pb import stream_pb2 as pb
from tests.replica import deployments as d
from tests.replica.conftest import Start


def test_async_handler_and_its_answers(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            echo = await client.http("/a/b", method="POST", body=b"hi", headers=(b"x", b"1")).whole()
            assert json.loads(echo.body) == {"method": "POST", "path": "/a/b", "body": "hi", "x": "1"}
            assert echo.headers[b"content-type"] == b"application/json"
            answered = [part for part in echo.parts if not isinstance(part, pb.Accepted)]  # it leads when Head is late
            assert answered == [echo.head] and echo.head.end, "a small answer leaves as one part"
            text = await client.http(query=b"do=text").whole()
            assert (text.body.decode(), text.headers[b"content-length"]) == ("héllo", b"6")
            none = await client.http(query=b"do=none").whole()
            assert (none.head.status, none.body) == (200, b"")
            made = await client.http(query=b"do=response").whole()
            assert (made.head.status, made.body, made.headers[b"x-made"]) == (201, b"made", b"yes")
            numbers = await client.http(query=b"do=json").whole()
            assert json.loads(numbers.body) == {"array": [0, 1, 2], "scalar": 0.5, "nested": [{"n": 7}]}
            big = await client.http(query=b"do=big").whole()
            assert big.body == b"0123456789" * 200_000
            lines = await client.http(query=b"do=generator").whole()
            assert lines.body == b"line 0\nline 1\nline 2\n"

    asyncio.run(talk())


def test_body_in_pieces(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            echo = client.http(method="POST", body=b"one ", end=False, headers=(b"x", b"1"))
            client.data(echo, b"two ")
            client.data(echo, b"three", end=True)
            assert json.loads((await echo.whole()).body)["body"] == "one two three"

    asyncio.run(talk())


def test_user_errors_are_told_and_the_replica_lives(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client() as client:
            failed = await client.http(query=b"do=fail").whole()
            assert (failed.error.kind, failed.error.state) == ("UserError", pb.ERROR_STATE_STARTED)
            assert failed.error.message == "ValueError: broken on purpose"
            assert "do_fail" in failed.error.traceback and "call_http" not in failed.error.traceback
            exited = await client.http(query=b"do=exit").whole()
            assert exited.error.message == "SystemExit: 3"
            assert (await client.http(query=b"do=text").whole()).head.status == 200

    asyncio.run(talk())
    assert "request_id=r1" in replica.log()


def test_streaming_and_functions_and_sync_handlers(start: Start) -> None:
    asynchronous, function, sync = start(d.Async), start(d.hello), start(d.Sync)

    async def talk() -> None:
        async with asynchronous.client() as client:
            answer = await client.http(query=b"do=stream&n=5").whole()
            assert answer.body == b"".join(b"piece %d\n" % number for number in range(5))
            assert answer.headers[b"content-type"].startswith(b"text/event-stream")
            assert len(answer.of(pb.Data)) >= 5, "each piece left by itself"
        async with function.client() as client:
            assert (await client.http().whole()).body == b"hello"
        async with sync.client() as client:
            answer = await client.http().whole()
            assert json.loads(answer.body) == {"thread": "sync handler"}
            assert (await client.http(query=b"do=generator").whole()).body == b"0,1,2,"

    asyncio.run(talk())


def test_a_reader_that_stops_holds_the_generator_back(start: Start) -> None:
    replica = start(d.Async)

    async def talk() -> None:
        async with replica.client(credit=False) as client:
            flood = client.http(query=b"do=flood")
            await flood.at_least(3, pb.Data)
            sent = -1
            while (now := (await client.call("sent_so_far").whole()).value) != sent:
                sent = now
            assert sent * 10_000 < 2 << 20, "about a window's worth was made, not 100 MB"
            received = sum(len(data.payload) for data in flood.of(pb.Data))
            client.grant_credit(flood, received)
            await flood.at_least(len(flood.of(pb.Data)) + 1, pb.Data)

    asyncio.run(talk())


def test_asgi_application_with_lifespan_and_websocket(start: Start) -> None:
    replica = start(d.Ingress)

    async def talk() -> None:
        async with replica.client() as client:
            answer = await client.http("/here").whole()
            assert (answer.body, answer.headers[b"x-app"], len(answer.parts)) == (b"lived /here", b"raw", 1)
            socket = client.http(kind="websocket", end=False)
            head = (await socket.at_least(1, pb.Head))[0]
            assert (head.status, head.subprotocol) == (101, "p")
            client.data(socket, b"shout", kind=pb.DATA_KIND_WS_TEXT)
            client.data(socket, b"abc", kind=pb.DATA_KIND_WS_BINARY)
            said = await socket.at_least(2, pb.Data)
            assert [(part.kind, part.payload) for part in said] == [
                (pb.DATA_KIND_WS_TEXT, b"SHOUT"),
                (pb.DATA_KIND_WS_BINARY, b"cba"),
            ]
            client.data(socket, b"", kind=pb.DATA_KIND_WS_CLOSE, code=1000, end=True)
            await socket.whole()
            assert socket.of(pb.Data)[-1].kind == pb.DATA_KIND_WS_CLOSE

    asyncio.run(talk())


def test_fastapi_application(start: Start) -> None:
    replica = start(d.FastApiIngress)

    async def talk() -> None:
        async with replica.client() as client:
            item = await client.http("/items/7").whole()
            # An Accepted may have come before, on a loaded machine.
            assert (json.loads(item.body), len(item.of(pb.Head)), len(item.of(pb.Data))) == ({"number": 7}, 1, 0)
            assert (await client.http("/items/x").whole()).head.status == 422
            assert (await client.http("/missing").whole()).head.status == 404
            assert b"thread" in (await client.http("/sync").whole()).body
            assert (await client.http("/broken").whole()).head.status == 500
            upload = client.http("/upload", method="POST", end=False)
            for _ in range(20):
                client.data(upload, b"x" * 10_000)
            client.data(upload, b"", end=True)
            assert (await upload.whole()).body == b"200000"

    asyncio.run(talk())
    assert "broken on purpose" in replica.log()
