"""The small print of HTTP/1.1: what is added, what is left away, and what is said in which order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from email.utils import parsedate_to_datetime

import pytest

from serve_rt.transport.server import ServerRequest
from tests.proxy.front import APP, Answered, Front, front, read_answer
from tests.proxy.test_requests import describe
from tests.routing.replicas import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def described(proxy: Front) -> None:
    one = await proxy.replicas.start("one")
    one.handler.act = describe
    await proxy.serve(one)


async def test_every_answer_has_one_date() -> None:
    async with front(url_bytes=100) as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one, app=replace(APP, route_prefix="/app"))
        for path in ("/app", "/-/healthz", "/missing", "/" + "a" * 200):
            raw = await proxy.raw(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert raw.lower().count(b"\r\ndate: ") == 1, path
            assert parsedate_to_datetime(Answered.parse(raw).headers["date"]).utcoffset() is not None


@pytest.mark.parametrize("end", [True, False])
async def test_the_applications_own_date_is_kept(end: bool) -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")

        def dated(request: ServerRequest) -> None:
            request.head(200, (b"Date", b"Mon, 01 Jan 2001 00:00:00 GMT"), body=b"x", end=end)
            if not end:
                request.data(b"y", end=True)
            request.finished()

        one.handler.act = dated
        await proxy.serve(one)
        raw = await proxy.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert raw.lower().count(b"\r\ndate: ") == 1 and b"date: Mon, 01 Jan 2001" in raw


@pytest.mark.parametrize("apart", [True, False])
async def test_trailers_are_dropped_and_never_taken_for_headers(apart: bool) -> None:
    async with front() as proxy:
        await described(proxy)
        reader, writer = await proxy.connect()
        head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n"
        rest = b"5\r\nhello\r\n0\r\nx-late: 1\r\nx-request-id: evil\r\nhost: evil\r\n\r\n"
        writer.write(head + b"" if apart else head + rest)
        if apart:
            await asyncio.sleep(0.02)
            writer.write(rest)
        answered = Answered.parse(await read_answer(reader))
        said = json.loads(answered.body)
        assert said["body"] == "hello" and said["headers"]["host"] == "x"
        assert not {"x-late", "trailer", "content-length"} & set(said["headers"])
        assert answered.headers["x-request-id"] != "evil"
        writer.write(b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
        assert json.loads(Answered.parse(await read_answer(reader)).body)["path"] == "/next"


async def test_100_continue_comes_when_the_body_is_wanted() -> None:
    async with front() as proxy:
        await described(proxy)
        reader, writer = await proxy.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert json.loads(Answered.parse(await read_answer(reader)).body)["body"] == "hello"


async def test_100_continue_does_not_come_for_a_body_that_is_too_large() -> None:
    async with front(body_bytes=100) as proxy:
        await described(proxy)
        raw = await proxy.raw(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 101\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 413") and b"connection: close" in raw


async def test_a_root_path_that_a_proxy_before_us_took_off_is_put_on_again() -> None:
    async with front(root_path="/base") as proxy:
        one = await proxy.replicas.start("one")
        one.handler.act = describe
        await proxy.serve(one, app=replace(APP, route_prefix="/app"))
        said = json.loads((await proxy.get("/app/x?q=1")).body)
        assert (said["path"], said["root_path"], said["query"]) == ("/base/app/x", "/base/app", "q=1")


async def test_what_is_of_one_hop_or_only_ours_to_say_is_not_passed_on() -> None:
    async with front() as proxy:
        one = await proxy.replicas.start("one")
        seen: list[dict[str, str]] = []

        def act(request: ServerRequest) -> None:
            flat = [value.decode() for value in request.open.http.headers]
            seen.append(dict(zip(flat[::2], flat[1::2], strict=True)))
            hop = (b"keep-alive", b"x", b"transfer-encoding", b"chunked", b"te", b"x", b"upgrade", b"h2c")
            request.head(200, (*hop, b"x-kept", b"1"), body=b"ok", end=True)
            request.finished()

        one.handler.act = act
        await proxy.serve(one)
        sent = {
            "connection": "keep-alive, x-private",
            "x-private": "1",
            "te": "trailers",
            "keep-alive": "5",
            "proxy-connection": "x",
            "proxy-authorization": "x",
            "forwarded": "for=6.6.6.6",
            "x-forwarded-for": "6.6.6.6",
            "x-forwarded-proto": "https",
            "x-forwarded-host": "evil",
            "x-forwarded-port": "1",
            "x-kept": "1",
        }
        answered = await proxy.get("/", "".join(f"{name}: {value}\r\n" for name, value in sent.items()))
        ours = {"host", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
        assert set(seen[0]) == {"x-kept", *ours}
        assert (seen[0]["x-forwarded-for"], seen[0]["x-forwarded-proto"]) == ("127.0.0.1", "http")
        assert seen[0]["x-forwarded-host"] == "test"
        assert answered.body == b"ok" and answered.headers["x-kept"] == "1"
        assert not {"keep-alive", "transfer-encoding", "te", "upgrade"} & set(answered.headers)


async def test_head_says_what_get_would_and_sends_no_body() -> None:
    async with front() as proxy:
        await described(proxy)
        reader, writer = await proxy.connect()
        writer.write(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 200"), "the next answer follows at once"


async def test_an_upgrade_that_is_not_offered_is_ignored_and_what_follows_is_served() -> None:
    async with front() as proxy:
        await described(proxy)
        reader, writer = await proxy.connect()
        upgrade = b"host: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n"
        for data in (
            b"GET /1 HTTP/1.1\r\n" + upgrade + b"\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\n",
            b"DELETE /3 HTTP/1.1\r\n" + upgrade + b"\r\n" + b"GET /4 HTTP/1.1\r\nhost: x\r\n\r\n",
        ):
            writer.write(data)
            first = json.loads(Answered.parse(await read_answer(reader)).body)
            second = json.loads(Answered.parse(await read_answer(reader)).body)
            assert int(second["path"][1:]) == int(first["path"][1:]) + 1
            assert not {"upgrade", "http2-settings"} & set(first["headers"])


async def test_the_next_request_has_its_own_keep_alive_time() -> None:
    async with front(keep_alive_timeout_s=0.4) as proxy:
        one = await proxy.replicas.start("one")
        await proxy.serve(one)
        reader, writer = await proxy.connect()
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        writer.write(request)
        await read_answer(reader)
        one.handler.act = one.handler.hold
        await asyncio.sleep(0.2)
        writer.write(request)
        await until(lambda: len(one.handler.held) == 1, "it runs")
        await asyncio.sleep(0.6)
        one.handler.let_go()
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 200"), "the time between requests was not its own"
        assert await asyncio.wait_for(reader.read(), 3) == b"", "and then it is idle"
