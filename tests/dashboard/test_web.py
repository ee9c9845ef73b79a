"""The pages over HTTP: what they answer, to whom, and what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest

from serve_rt.api.client import AgentClient
from serve_rt.dashboard import web
from serve_rt.dashboard.server import bind
from serve_rt.dashboard.web import PAGE, make_app
from serve_rt.errors import ConfigError, NotFoundError
from tests.dashboard.test_watcher import Agent, watching

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Logging(Agent):
    asked: Any = None

    async def logs(self, app: str, replica: str, lines: int, *, follow: bool) -> AsyncIterator[tuple[str, bytes]]:
        self.asked = (app, replica, lines, follow)
        if app == "gone":
            raise NotFoundError("There is no application 'gone'.")
        yield "a_D_x", b"one\n"
        yield "a_D_y", b"<b>\xff\n"
        yield "a_D_x", b"two\n"


def asking(agent: Agent, host: str = "127.0.0.1:8265") -> httpx.AsyncClient:
    app = make_app(watching(agent), cast(AgentClient, agent), ["localhost", "127.0.0.1"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


async def test_the_page_and_all_it_loads_are_ours_and_locked() -> None:
    async with asking(Agent("h:1")) as client:
        for path in ("/", *(f"/page/{file.name}" for file in PAGE.iterdir())):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            for foreign in ("http://", "https://", "innerHTML", "eval("):
                assert foreign not in answer.text.replace("http://www.w3.org/2000/svg", ""), (path, foreign)


async def test_a_name_of_somebody_elses_is_refused() -> None:
    async with asking(Agent("h:1"), host="evil.example") as client:
        answer = await client.get("/api/view")
        assert answer.status_code == 400
    async with asking(Agent("h:1"), host="localhost:9999") as client:
        assert (await client.get("/api/view")).json()["cluster"] == "c"


async def test_nothing_can_be_changed() -> None:
    async with asking(Agent("h:1")) as client:
        for path in ("/", "/api/view", "/api/history", "/api/logs"):
            assert (await client.post(path)).status_code == 405, path
        assert (await client.get("/page/../web.py")).status_code == 404
        assert (await client.get("/page/%2e%2e/web.py")).status_code == 404


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 40, "²"])
async def test_a_number_that_is_none_is_refused(after: str) -> None:
    async with asking(Agent("h:1")) as client:
        assert (await client.get("/api/history", params={"after": after})).status_code == 400
        assert (await client.get("/api/logs", params={"lines": after})).status_code == 400


async def test_logs_are_shown_by_source() -> None:
    agent = Logging("h:1")
    async with asking(agent) as client:
        answer = await client.get("/api/logs", params={"app": "a", "replica": "x", "lines": "7"})
        assert agent.asked == ("a", "x", 7, False)
        assert answer.text == "==> a_D_x <==\none\ntwo\n\n==> a_D_y <==\n<b>\N{REPLACEMENT CHARACTER}\n"
        assert answer.headers["content-type"].startswith("text/plain")
        gone = await client.get("/api/logs", params={"app": "gone"})
        assert (gone.status_code, gone.text) == (404, "There is no application 'gone'.\n")
        assert (await client.get("/api/logs", params={"lines": "100000"})).status_code == 400


async def test_a_log_without_end_is_cut_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_LOG_BYTES", 4)
    async with asking(Logging("h:1")) as client:
        assert (await client.get("/api/logs")).text.startswith("==> a_D_x <==\ntwo\n")


def test_an_open_address_is_refused_without_the_word() -> None:
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 .* --insecure"):
        bind("0.0.0.0", 0, insecure=False)
    bind("0.0.0.0", 0, insecure=True).close()


def test_a_port_that_is_taken_is_told() -> None:
    with bind("127.0.0.1", 0, insecure=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}: .*--port 0"):
            bind("127.0.0.1", port, insecure=False)
