"""HTTPS: the certificate is shown, what is wrong with the files is named, and the limits hold."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from serve_rt.agents.settings import Settings
from serve_rt.config.options import HTTPOptions
from serve_rt.config.paths import StateDir
from serve_rt.credentials.http_tls import https_context
from serve_rt.errors import ConfigError
from serve_rt.pb import stream_pb2 as pb
from serve_rt.transport.server import ServerRequest
from tests.proxy.certificates import Pair, make_pair
from tests.proxy.front import front, read_answer
from tests.proxy.test_requests import describe
from tests.routing.replicas import until

pytestmark = pytest.mark.anyio
GOOD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "one")


def trusting(pair: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=pair.certfile)


async def test_requests_streams_and_websockets_over_tls(pair: Pair) -> None:
    import websockets

    async with front(tls=https_context(pair.certfile, pair.keyfile)) as proxy:
        one = await proxy.replicas.start("one")
        one.handler.act = describe
        await proxy.serve(one)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=trusting(pair))
        for _ in range(3):
            writer.write(GOOD)
            assert b'"x-forwarded-proto": "https"' in await read_answer(reader)
        writer.close()

        def greet(request: ServerRequest) -> None:
            assert request.open.http.scheme == "wss"
            request.head(101, ())
            request.data(b"hello", kind=pb.DATA_KIND_WS_TEXT)
            request.data(b"", end=True, kind=pb.DATA_KIND_WS_CLOSE, code=1000)
            request.finished()

        one.handler.act = greet
        async with websockets.connect(f"wss://127.0.0.1:{proxy.port}/", ssl=trusting(pair)) as socket:
            assert await socket.recv() == "hello"


async def test_plain_http_and_slow_handshakes_are_closed_and_disturb_nobody(pair: Pair) -> None:
    async with front(tls=https_context(pair.certfile, pair.keyfile)) as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        silent, _ = await proxy.connect()
        plain, plain_writer = await proxy.connect()
        plain_writer.write(GOOD)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=trusting(pair))
        writer.write(GOOD)
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 200")
        for other in (silent, plain):
            async with asyncio.timeout(5):
                try:
                    assert not (await other.read()).startswith(b"HTTP")
                except ConnectionError:
                    continue
        writer.close()
        await until(lambda: proxy.server.connections == 0, "closed")


async def test_a_refusal_is_read_over_tls_too(pair: Pair) -> None:
    async with front(tls=https_context(pair.certfile, pair.keyfile), body_bytes=1000) as proxy:
        await proxy.serve(await proxy.replicas.start("one"))
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=trusting(pair))
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n" + b"x" * 200_000)
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 413")
        writer.transport.abort()


def test_bad_files_are_refused_by_name(tmp_path: Path, pair: Pair) -> None:
    other = make_pair(tmp_path, "other")
    locked = make_pair(tmp_path, "locked", password="secret")
    empty = tmp_path / "empty.pem"
    empty.touch()
    missing = str(tmp_path / "missing.pem")
    for certfile, keyfile, said in (
        (missing, pair.keyfile, f"--http-ssl-certfile {missing} cannot be read"),
        (pair.certfile, missing, f"--http-ssl-keyfile {missing} cannot be read"),
        (str(empty), pair.keyfile, f"--http-ssl-certfile {empty} holds no certificate"),
        (pair.certfile, str(empty), f"--http-ssl-keyfile {empty} holds no private key"),
        (pair.certfile, other.keyfile, f"--http-ssl-keyfile {other.keyfile} does not belong to"),
        (locked.certfile, locked.keyfile, f"--http-ssl-keyfile {locked.keyfile} is encrypted"),
    ):
        settings = Settings(StateDir(tmp_path), http_ssl_certfile=certfile, http_ssl_keyfile=keyfile)
        with pytest.raises(ConfigError) as refused:
            settings.check()
        assert said in str(refused.value)


def test_an_open_address_needs_https_or_the_word_that_it_may_be_plain(tmp_path: Path, pair: Pair) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(ConfigError, match="--http-ssl-certfile"):
        Settings(state, http_host="0.0.0.0").check()
    Settings(state, http_host="0.0.0.0", http_ssl_certfile=pair.certfile, http_ssl_keyfile=pair.keyfile).check()
    Settings(state, http_host="0.0.0.0", insecure=True).check()
    Settings(state, http_host="0.0.0.0", proxy=False).check()
    with pytest.raises(ConfigError, match="--host"):  # HTTPS protects the proxy's port only
        Settings(state, host="10.0.0.1", http_ssl_certfile=pair.certfile, http_ssl_keyfile=pair.keyfile).check()
    with pytest.raises(ConfigError, match="needs --http-ssl-keyfile"):
        Settings(state, http_ssl_certfile=pair.certfile).check()


def test_the_options_of_a_program(pair: Pair) -> None:
    HTTPOptions(ssl_certfile=pair.certfile, ssl_keyfile=pair.keyfile)
    with pytest.raises(ValueError, match="together"):
        HTTPOptions(ssl_certfile=pair.certfile)
    for name in ("ssl_keyfile_password", "ssl_ca_certs"):
        with pytest.raises(ValueError, match=f"{name} is not supported"):
            HTTPOptions(**{name: "x"})  # type: ignore[arg-type]  # by name
