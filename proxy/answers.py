"""What a client is told when it does not get the application's answer: status, headers, body."""

from __future__ import annotations

import http
import math
from dataclasses import dataclass
from email.utils import formatdate

from serve_rt.errors import (
    BackPressureError,
    DeadlineExceededError,
    DeploymentUnavailableError,
    QueueTimeoutError,
    RequestCancelledError,
    ServeException,
    UserCodeError,
)

RETRY_AFTER_S = 1.0
CLIENT_CLOSED = 499
"""For logs only: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    retry_after_s: float | None = None
    content_type: str = "text/plain; charset=utf-8"

    def headers(self, request_id: bytes) -> list[tuple[bytes, bytes]]:
        out = [
            (b"content-type", self.content_type.encode()),
            (b"content-length", str(len(self.body.encode())).encode()),
        ]
        if request_id:
            out.append((b"x-request-id", request_id))
        if self.retry_after_s is not None:
            out.append((b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode()))
        return out


def not_found(path: str) -> Answer:
    return Answer(404, f"Path '{path}' not found. Ping http://.../-/routes for available routes.")


def too_large(limit_bytes: int) -> Answer:
    return Answer(413, f"The request's body is larger than this application's max_body_bytes of {limit_bytes}.")


def body_too_slow(bytes_per_s: int) -> Answer:
    return Answer(408, f"The request's body came slower than {bytes_per_s} bytes a second.")


def timed_out(request_id: str, timeout_s: float | None) -> Answer:
    return Answer(408, f"Request {request_id} timed out after {timeout_s or 0:g}s.")


def answer_for(error: ServeException, request_id: str, timeout_s: float | None) -> Answer:
    if isinstance(error, UserCodeError):
        return Answer(500, f"Internal Server Error\nrequest id: {request_id}\n")
    if isinstance(error, BackPressureError):
        retry_after_s = error.retry_after_s if error.retry_after_s is not None else RETRY_AFTER_S
        return Answer(error.status_code, str(error), retry_after_s)
    if isinstance(error, DeadlineExceededError):
        return timed_out(request_id, timeout_s)
    if isinstance(error, QueueTimeoutError | DeploymentUnavailableError):
        return Answer(503, _for_strangers(str(error)), RETRY_AFTER_S)
    if isinstance(error, RequestCancelledError):
        return Answer(CLIENT_CLOSED, str(error))
    later_s = RETRY_AFTER_S if error.http_status in (429, 503) else None
    return Answer(error.http_status, f"{error}\nrequest id: {request_id}\n", later_s)


def _for_strangers(text: str) -> str:
    """Why a deployment failed is for who may ask for its status: clients get no traceback."""
    before, traceback, _ = text.partition("Traceback (most recent call last)")
    return f"{before.strip().removesuffix('Error:').strip()} See `serve status`." if traceback else text


def raw_answer(status: int) -> bytes:
    """A whole refusal for a connection whose request could not even be read."""
    phrase = http.HTTPStatus(status).phrase
    lines = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(phrase)}\r\n"
    lines += f"date: {formatdate(usegmt=True)}\r\n"
    return f"{lines}connection: close\r\n\r\n{phrase}".encode()
