"""`serve.ingress` without a cluster: the application an instance carries, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import cloudpickle
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import serve_rt as serve
from serve_rt.api.build import AppOptions, build
from serve_rt.api.ingress import ASGI_APP
from serve_rt.errors import BackPressureError, ServeException
from tests.api.asgi_client import Client, websocket_echo


class Item(BaseModel):
    name: str
    number: int = 1


async def shout(loud: bool = False) -> bool:
    return loud


def make_views() -> Any:
    app = FastAPI()
    nested = APIRouter(prefix="/nested")

    class Base:
        bias = 0

        @nested.get("/inherited")
        async def inherited(self) -> int:
            return self.bias

    @serve.ingress(app)
    class Views(Base):
        def __init__(self, bias: int = 0) -> None:
            self.bias = bias

        @app.get("/items/{number}")
        def item(self, number: int, extra: int = 0, loud: bool = Depends(shout)) -> dict[str, Any]:
            return {"number": number + extra + self.bias, "loud": loud}

        @app.post("/items")
        async def add(self, item: Item) -> Item:
            return Item(name=item.name, number=item.number + self.bias)

        @app.get("/busy")
        async def busy(self) -> None:
            raise BackPressureError(3, 2)

        @app.websocket("/echo")
        async def echo(self, socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(f"{await socket.receive_text()} {self.bias}")

        @app.get("/static")
        @staticmethod
        def static() -> str:
            return "no instance"

        def not_a_route(self) -> int:
            return self.bias

    app.include_router(nested)
    return serve.ingress(app)(Views)


def travelled(made: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(made))


@pytest.fixture(params=[False, True], ids=["here", "travelled"])
def views(request: pytest.FixtureRequest) -> Any:
    return travelled(make_views()) if request.param else make_views()


def client(cls: Any, *args: Any) -> Client:
    return Client(getattr(cls(*args), ASGI_APP))


def test_methods_are_given_their_instance(views: Any) -> None:
    for bias in (10, 20):  # two instances of one class do not mix
        asked = client(views, bias)
        assert asked.get("/items/1?extra=2&loud=true") == (200, {"number": 3 + bias, "loud": True})
        assert asked.post("/items", {"name": "a"}) == (200, {"name": "a", "number": 1 + bias})
        assert asked.get("/static") == (200, "no instance")
        assert websocket_echo(getattr(views(bias), ASGI_APP), "/echo", "hi") == f"hi {bias}"


def test_bad_input_is_fastapis_answer(views: Any) -> None:
    status, said = client(views).post("/items", {"number": "x"})
    assert status == 422 and {tuple(one["loc"]) for one in said["detail"]} == {("body", "name"), ("body", "number")}
    assert client(views).get("/items/x")[0] == 422


def test_self_is_not_in_the_docs(views: Any) -> None:
    status, schema = client(views).get("/openapi.json")
    [number, extra, loud] = schema["paths"]["/items/{number}"]["get"]["parameters"]
    assert status == 200 and [one["name"] for one in (number, extra, loud)] == ["number", "extra", "loud"]
    assert "example" not in number, "what was not given is still known as such"
    assert "/nested/inherited" in schema["paths"]


def test_inherited_methods_of_included_routers(views: Any) -> None:
    assert client(views, 4).get("/nested/inherited") == (200, 4)


def test_a_shed_child_call_is_not_a_500(views: Any) -> None:
    status, said = client(views).get("/busy")
    assert status == 503 and "backpressure" in said


def test_two_classes_of_one_application_keep_to_their_routes() -> None:
    app = FastAPI()

    class First:
        @app.get("/first")
        def first(self) -> str:
            return "first"

    class Second:
        @app.get("/second")
        def second(self) -> str:
            return "second"

    decorated = [serve.ingress(app)(kind) for kind in (First, Second)]
    one, two = (travelled(kind) for kind in decorated)
    assert client(one).get("/first") == (200, "first") and client(one).get("/second")[0] == 404
    assert client(two).get("/second") == (200, "second") and client(two).get("/first")[0] == 404


def test_a_router_becomes_an_application() -> None:
    router = APIRouter()

    @serve.ingress(router)
    class Routed:
        @router.get("/")
        def root(self) -> str:
            return type(self).__name__

    assert client(Routed).get("/") == (200, "Routed")


async def raw(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(type(scope["serve.instance"]).__name__)(scope, receive, send)


def test_any_asgi_application() -> None:
    starlette = Starlette(routes=[Route("/", lambda request: PlainTextResponse("starlette"))])

    class Bare:
        pass

    assert client(serve.ingress(raw)(Bare)).get("/") == (200, "Bare")
    assert client(travelled(serve.ingress(starlette)(Bare))).get("/") == (200, "starlette")


def test_builders_run_in_the_replica() -> None:
    calls: list[str] = []

    def builder() -> FastAPI:
        calls.append("built")
        app = FastAPI()
        app.get("/")(lambda: "built")
        return app

    class Built:
        def __serve_build_asgi_app__(self) -> FastAPI:
            return builder()

    alone = serve.deployment(serve.ingress(builder)())
    assert alone.name == "ASGIIngressDeployment" and not calls
    assert client(alone.func_or_class).get("/") == (200, "built") and calls == ["built"]
    assert client(serve.ingress()(Built)).get("/") == (200, "built")


def test_a_builder_that_fails_says_so() -> None:
    def builder() -> FastAPI:
        raise AttributeError("no such thing")

    instance = serve.ingress(builder)()()
    with pytest.raises(ServeException, match="no such thing"):
        getattr(instance, ASGI_APP, None)


def test_what_is_refused() -> None:
    class Callable_:
        def __call__(self) -> None: ...

    class Bare: ...

    class Selfless:
        app = FastAPI()

        @app.get("/")
        def root() -> None: ...  # type: ignore[misc]  # the mistake under test

    with pytest.raises(ValueError, match="must be used with a class"):
        serve.ingress(FastAPI())(lambda: None)
    with pytest.raises(ValueError, match="may not have __call__ method"):
        serve.ingress(FastAPI())(Callable_)
    with pytest.raises(ValueError, match="__serve_build_asgi_app__"):
        serve.ingress()(Bare)
    with pytest.raises(TypeError, match="got str"):
        serve.ingress("app")(Bare)
    with pytest.raises(ServeException, match="``self``"):
        serve.ingress(Selfless.app)(Selfless)


def test_one_ingress_per_application() -> None:
    one, two = (serve.deployment(name=name)(serve.ingress(FastAPI())()) for name in ("one", "two"))
    with pytest.raises(ServeException, match="Found multiple FastAPI deployments in application 'default': "):
        build(one.bind(two.bind()), AppOptions())


def test_the_core_does_not_import_fastapi() -> None:
    program = (
        "import sys; from serve_rt.api import ingress\n"
        "class C: pass\n"
        "async def app(scope, receive, send): pass\n"
        "ingress.ingress(app)(C)().__serve_asgi_app__\n"
        "assert not {'fastapi', 'starlette', 'pydantic'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
