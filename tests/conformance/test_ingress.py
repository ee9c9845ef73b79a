"""`@serve.ingress` with FastAPI and other ASGI applications, through the proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import serve_rt as serve
from serve_rt.api.build import AppOptions, build
from serve_rt.exceptions import RayServeException
from tests.cluster.processes import eventually
from tests.conformance.apps_ingress import Alone, BuildsItself, Built, Child, NoDatabase, Raw, Routed, Shop
from tests.conformance.asking import Cluster, call
from tests.conformance.bullets import covers


@pytest.fixture(scope="module", autouse=True)
def apps(cluster: Cluster) -> Iterator[None]:
    made = {
        "shop": Shop.bind(),
        "routed": Routed.bind(),
        "raw": Raw.bind(),
        "built": Built.bind(),
        "alone": Alone.bind(),
        "itself": BuildsItself.bind("good day"),
        "child": Child.bind("child"),
    }
    targets = [serve.RunTarget(app, name, f"/{name}") for name, app in made.items()]
    serve.run_many(targets)
    yield
    for target in targets:
        serve.delete(target.name, _blocking=False)


@covers("1.11-01", "1.11-20")
def test_routes_are_methods(cluster: Cluster) -> None:
    answer = cluster.post("/shop/items", {"name": "pen", "price": 2})
    assert (answer.status, answer.json()) == (201, {"name": "pen", "price": 2.0})
    assert cluster.get("/shop/items/pen").json() == {"item": {"name": "pen", "price": 2.0}, "limit": 10}
    assert cluster.get("/shop/plain").json() == "no self"
    assert cluster.get("/shop/nothing").status == 404
    assert cluster.ask("/shop/items", method="DELETE").status == 405


@covers("1.11-20")
def test_what_does_not_fit_the_model(cluster: Cluster) -> None:
    answer = cluster.post("/shop/items", {"name": "pen", "price": -1})
    assert answer.status == 422 and "greater than 0" in answer.text
    assert cluster.post("/shop/items", {"name": "pen"}).status == 422


@covers("1.11-02")
def test_inherited_routes(cluster: Cluster) -> None:
    assert cluster.get("/shop/inherited").json() == "Shop"


@covers("1.11-19")
def test_dependencies(cluster: Cluster) -> None:
    cluster.post("/shop/items", {"name": "cup", "price": 1})
    assert cluster.get("/shop/items/cup?limit=3").json()["limit"] == 3
    assert cluster.ask("/shop/plain", headers={"x-token": "wrong"}).status == 401


@covers("1.11-18", "1.11-23")
def test_middleware_and_exception_handlers(cluster: Cluster) -> None:
    answer = cluster.get("/shop/items/ghost")
    assert (answer.status, answer.text) == (410, '{"missing":"ghost"}')
    assert answer.headers["x-stamp"] == "stamped"


@covers("1.11-21")
def test_streams_and_background_tasks(cluster: Cluster) -> None:
    assert cluster.get("/shop/stream").text == "0\n1\n2\n"
    assert cluster.post("/shop/tell/word", None).json() == "later"
    eventually(lambda: "word" in cluster.get("/shop/told").json(), 10, "the background task ran")


@covers("1.11-22")
def test_mounted_applications(cluster: Cluster) -> None:
    assert cluster.get("/shop/small/hi").json() == "hi from below"


@covers("1.11-15")
def test_refusals_of_child_calls(cluster: Cluster) -> None:
    full = cluster.get("/shop/refused?kind=full")
    assert (full.status, full.headers["retry-after"]) == (429, "7")
    gone = cluster.get("/shop/refused?kind=gone")
    assert gone.status == 503 and int(gone.headers["retry-after"]) >= 1


@covers("1.11-16", "1.6-06")
def test_docs_under_the_prefix(cluster: Cluster) -> None:
    state = cluster.get("/shop/state").json()
    assert state == {"opened": "opened", "root": "/shop"}
    assert "/shop/openapi.json" in cluster.get("/shop/docs").text
    schema = cluster.get("/shop/openapi.json").json()
    assert schema["info"]["title"] == "Shop" and "/items/{name}" in schema["paths"]
    assert schema["servers"] == [{"url": "/shop"}]
    names = [one["name"] for one in schema["paths"]["/items/{name}"]["get"]["parameters"]]
    assert names == ["name", "limit", "x-token"], "self is no parameter of a request"
    status = serve.status().applications
    assert (status["shop"].docs_path, status["alone"].docs_path) == ("/docs", "/papers")
    assert status["raw"].docs_path is None


@covers("1.11-17")
def test_websockets(cluster: Cluster) -> None:
    with connect(f"ws://{cluster.http_address}/shop/ws/blue", subprotocols=["chat", "other"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "chat"
        socket.send("hello")
        assert json.loads(socket.recv(10))["room"] == "blue"
        socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")


@covers("1.11-24")
def test_methods_by_handle(cluster: Cluster) -> None:
    cluster.post("/shop/items", {"name": "mug", "price": 1})
    assert call("shop", "count") >= 1
    with pytest.raises(RayServeException, match=r"(?s)'fly' that does not exist.*'count'"):
        call("shop", "fly")


@covers("1.11-03")
def test_a_router(cluster: Cluster) -> None:
    assert cluster.get("/routed/v1/who").json() == "Routed"


@covers("1.11-04")
def test_any_asgi_application(cluster: Cluster) -> None:
    answer = cluster.get("/raw/some/where")
    assert (answer.status, answer.headers["x-raw"], answer.text) == (203, "yes", "/raw/some/where!")


@covers("1.11-05")
def test_a_function_that_makes_the_application(cluster: Cluster) -> None:
    assert cluster.get("/built/hello").text == "starlette"


@covers("1.11-06")
def test_an_application_alone(cluster: Cluster) -> None:
    assert cluster.get("/alone/only").json() == {"who": "Alone"}


@covers("1.11-13")
def test_routes_added_later(cluster: Cluster) -> None:
    assert cluster.get("/alone/late").json() == "added after the decoration"


@covers("1.11-07")
def test_a_class_that_makes_its_application(cluster: Cluster) -> None:
    assert cluster.get("/itself/greeting").json() == "good day"


@covers("1.11-25")
def test_a_subclass_with_a_constructor(cluster: Cluster) -> None:
    assert cluster.get("/child/name").json() == "child"


@covers("1.11-14")
def test_lifespan(cluster: Cluster, tmp_path: Path) -> None:
    serve.run(Shop.bind(str(tmp_path / "end")), name="short", route_prefix="/short")
    assert cluster.get("/short/state").json()["opened"] == "opened"
    serve.delete("short")
    assert (tmp_path / "end").read_text() == "shut down"
    with pytest.raises(RuntimeError, match="no database"):
        serve.run(NoDatabase.bind(), name="nodb", route_prefix="/nodb")
    serve.delete("nodb", _blocking=False)


# --- refused before anything starts -----------------------------------------------------------------------------------


@covers("1.11-08")
def test_not_a_class() -> None:
    with pytest.raises(ValueError, match="@serve.ingress must be used with a class"):
        serve.ingress(FastAPI())(lambda: None)


@covers("1.11-09")
def test_a_class_with_call() -> None:
    class Callable:
        def __call__(self) -> None: ...

    with pytest.raises(ValueError, match="may not have __call__ method"):
        serve.ingress(FastAPI())(Callable)


@covers("1.11-10")
def test_no_application() -> None:
    class Empty: ...

    with pytest.raises(ValueError, match="__serve_build_asgi_app__"):
        serve.ingress()(Empty)
    with pytest.raises(TypeError, match="ASGI app.*int"):
        serve.ingress(5)(Empty)


@covers("1.11-11")
def test_a_route_method_without_self() -> None:
    app = FastAPI()

    class NoSelf:
        @app.get("/")
        def root() -> str:  # type: ignore[misc]  # that is the case
            return ""

    with pytest.raises(RayServeException, match="self"):
        serve.ingress(app)(NoSelf)


@covers("1.11-12", "1.9-39")
def test_an_application_that_cannot_be_pickled() -> None:
    app = FastAPI()
    app.state.lock = threading.Lock()

    @serve.deployment
    @serve.ingress(app)
    class Locked: ...

    with pytest.raises(TypeError, match=r"(?s)Locked.*lock"):
        build(Locked.bind(), AppOptions())


@covers("1.9-39")
def test_arguments_that_cannot_be_pickled() -> None:
    @serve.deployment
    class Model:
        def __init__(self, *things: Any, **named: Any) -> None: ...

    with pytest.raises(TypeError, match=r"Could not serialize the deployment Model: argument 1 of bind.*lock.*inside"):
        build(Model.bind("fine", threading.Lock()), AppOptions())
    with pytest.raises(TypeError, match=r"argument 'guard' of bind.*lock"):
        build(Model.bind(guard=threading.Lock()), AppOptions())
