"""How cases ask the shared cluster: over HTTP, by handle, and for what it knows."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import serve_rt as serve

LIGHT: dict[str, Any] = {"num_cpus": 0.01}
"""Many applications stand side by side on two cores."""
ANSWER_S = 20.0
"""No answer takes this long; a machine under load may take some of it."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        assert self.status < 300, (self.status, self.text)
        return json.loads(self.body)


@dataclass(frozen=True)
class Cluster:
    http_address: str
    folder: str
    """The state dir."""

    def ask(
        self, path: str, *, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """A body that is not bytes goes as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        connection = http.client.HTTPConnection(self.http_address, timeout=ANSWER_S)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask(path)

    def post(self, path: str, body: Any) -> Answer:
        return self.ask(path, method="POST", body=body)


def call(app: str, method: str = "__call__", *args: Any, **kwargs: Any) -> Any:
    """By handle of the application's ingress."""
    handle = serve.get_app_handle(app).options(method_name=method)
    return handle.remote(*args, **kwargs).result(timeout_s=ANSWER_S)
