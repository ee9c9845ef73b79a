"""`serve.ingress` with real processes: FastAPI under a prefix, behind a root path, over HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator

import httpx
import pytest
import websockets

import serve_rt as serve
from serve_rt.api import session as sessions
from tests.api.ingress_apps import Shop, Stock

pytestmark = pytest.mark.cluster
ONE_CPU = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def shop() -> Iterator[httpx.Client]:
    """A client of the application, in a cluster of this process."""
    folder = tempfile.mkdtemp(prefix="srt-", dir="/tmp")
    before = {name: os.environ.get(name) for name in ("SERVE_STATE_DIR", "SERVE_ADDRESS")}
    os.environ["SERVE_STATE_DIR"] = folder
    os.environ.pop("SERVE_ADDRESS", None)
    try:
        serve.start(http_options={"port": 0, "root_path": "/base"})
        stock = Stock.options(ray_actor_options=ONE_CPU).bind()
        serve.run(Shop.options(ray_actor_options=ONE_CPU).bind(stock), name="shop", route_prefix="/api")
        address = sessions.current().identity.http_address
        with httpx.Client(base_url=f"http://{address}/api", timeout=10) as client:
            yield client
    finally:
        serve.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        shutil.rmtree(folder, ignore_errors=True)


def test_path_query_and_dependencies(shop: httpx.Client) -> None:
    answer = shop.get("/items/apple", params={"times": 3, "euro": True})
    assert (answer.status_code, answer.json()) == (200, {"price": 15, "unit": "EUR"})
    assert shop.get("/items/fig").json() == {"price": 3, "unit": "USD"}


def test_pydantic_bodies_reach_the_instance_that_handles_see(shop: httpx.Client) -> None:
    answers = [shop.post("/orders", json={"item": "fig", "count": 2}) for _ in range(2)]
    assert [(one.status_code, one.json()["count"]) for one in answers] == [(201, 2), (201, 4)]
    assert serve.get_app_handle("shop").sold_so_far.remote().result(timeout_s=10) == 4


def test_errors_are_fastapis(shop: httpx.Client) -> None:
    assert shop.post("/orders", json={"count": "many"}).status_code == 422
    gone = shop.get("/gone")
    assert (gone.status_code, gone.json()) == (410, {"detail": "sold out"})
    assert shop.get("/nowhere").json() == {"detail": "Not Found"}


def test_streams(shop: httpx.Client) -> None:
    with shop.stream("GET", "/pieces") as answer:
        assert "".join(answer.iter_text()) == "0,1,2,"
        assert answer.headers["content-type"].startswith("text/plain")


def test_lifespan_and_root_path(shop: httpx.Client) -> None:
    assert shop.get("/where").json() == {
        "root_path": "/base/api",
        "url": "/base/api/where",
        "opened": "in lifespan",
        "started": ["up"],
    }


def test_docs_under_the_prefix(shop: httpx.Client) -> None:
    assert "/base/api/openapi.json" in shop.get("/docs").text
    schema = shop.get("/openapi.json").json()
    assert schema["servers"] == [{"url": "/base/api"}]
    assert [one["name"] for one in schema["paths"]["/items/{item}"]["get"]["parameters"]] == ["item", "times", "euro"]


def test_websockets(shop: httpx.Client) -> None:
    async def talk() -> list[str]:
        url = str(shop.base_url).replace("http://", "ws://") + "echo"
        async with websockets.connect(url) as socket:
            answers = []
            for text in ("a", "abc"):
                await socket.send(text)
                answers.append(str(await asyncio.wait_for(socket.recv(), 10)))
            return answers

    assert asyncio.run(talk()) == ["a 1", "abc 3"]
