"""What a client may ask, each operation a method. Decodes the line, asks the part that knows, answers: now, or when a
process has been forked or its remains are gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from serve_rt.agents.launcher.children import Children
from serve_rt.agents.launcher.connection import Connection
from serve_rt.agents.launcher.http_sockets import HttpSockets
from serve_rt.agents.launcher.nurseries import Nurseries
from serve_rt.agents.launcher.reactor import Reactor
from serve_rt.agents.launcher.records import Handle, LauncherStatus, SpawnSpec
from serve_rt.agents.launcher.sweeping import Sweep
from serve_rt.errors import ConfigError, ServeException, UnavailableError

Request = dict[str, Any]  # Any: JSON of a client, checked where it is used
Reply = Callable[[object], None]


class Requests:
    def __init__(
        self,
        reactor: Reactor,
        children: Children,
        nurseries: Nurseries,
        sockets: HttpSockets,
        status: Callable[[], LauncherStatus],
        begin_shutdown: Callable[[Reply], None],
    ) -> None:
        self._reactor, self._children, self._nurseries, self._sockets = reactor, children, nurseries, sockets
        self._status, self._begin_shutdown = status, begin_shutdown
        self._operations: dict[str, Callable[[Request, Reply], None]] = {
            "spawn": self._spawn,
            "handles": self._handles,
            "signal": self._signal,
            "kill_group": self._kill_group,
            "forget": self._forget,
            "bind_http": self._bind_http,
            "unbind_http": self._unbind_http,
            "preload": self._preload,
            "status": self._tell_status,
            "shutdown": self._shutdown,
        }

    def line(self, connection: Connection, text: bytes) -> None:
        """Every line gets exactly one answer."""
        number: int | None = None

        def reply(result: object) -> None:
            if isinstance(result, ServeException):
                connection.refuse(number, result)
            else:
                connection.send({"id": number, "result": msgspec.to_builtins(result)})

        try:
            request = _request(text)
            number = request["id"]
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                raise ConfigError(
                    f"the launcher knows no {request.get('op')!r}; it knows {', '.join(self._operations)}"
                )
            operation(request, reply)
        except ServeException as error:
            reply(error)
        except (msgspec.ValidationError, KeyError, TypeError, ValueError, OverflowError) as error:
            reply(ConfigError(f"not a valid request: {type(error).__name__}: {error}"))

    def _spawn(self, request: Request, reply: Reply) -> None:
        spec = msgspec.convert(request["spec"], SpawnSpec)

        def answer(outcome: Handle | ServeException) -> None:
            reply(outcome)

        self._children.spawn(spec, answer)

    def _handles(self, request: Request, reply: Reply) -> None:
        reply(self._children.handles())

    def _signal(self, request: Request, reply: Reply) -> None:
        reply(self._children.signal(*_key(request), int(request["signum"])))

    def _kill_group(self, request: Request, reply: Reply) -> None:
        """Answered when nothing is left; one that is being started is waited for."""
        key = _key(request)
        sweep: Sweep | None = None

        def done() -> bool:
            nonlocal sweep
            if self._children.starting(*key):
                return False
            sweep = sweep or self._children.sweep(*key)
            if sweep is None:
                reply(None)
                return True
            if not sweep.done():
                return False
            left = ", ".join(f"{stat.pid} (state {stat.state})" for stat in sweep.left)
            reply(UnavailableError(f"processes of {sweep.handle.name} do not end: {left}") if left else None)
            return True

        self._reactor.poll_until(done)

    def _forget(self, request: Request, reply: Reply) -> None:
        self._children.forget(*_key(request))
        reply(None)

    def _bind_http(self, request: Request, reply: Reply) -> None:
        reply(self._sockets.bind(str(request["host"]), int(request["port"]), int(request["slots"])))

    def _unbind_http(self, request: Request, reply: Reply) -> None:
        self._sockets.close()
        reply(None)

    def _preload(self, request: Request, reply: Reply) -> None:
        self._nurseries.learn(msgspec.convert(request["modules"], tuple[str, ...]))
        reply(None)

    def _tell_status(self, request: Request, reply: Reply) -> None:
        reply(self._status())

    def _shutdown(self, request: Request, reply: Reply) -> None:
        self._begin_shutdown(reply)


def _request(text: bytes) -> Request:
    """*Errors*: ConfigError when it is no request at all."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a JSON line: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("id"), int):
        raise ConfigError("a request is a JSON object with an integer id")
    return request


def _key(request: Request) -> tuple[str, int]:
    return str(request["name"]), int(request["incarnation"])
