"""What a handler returned, as status, headers and body.

Pure: no threads, no parts. A starlette Response that only holds bytes is taken apart here and leaves as one part;
everything that must run (StreamingResponse, FileResponse, background tasks) is left to ASGI.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from starlette.responses import JSONResponse, Response

from serve_rt.errors import BackPressureError, DeadlineExceededError, DeploymentUnavailableError, QueueTimeoutError
from serve_rt.replica.json_text import to_json

_TEXT = (b"content-type", b"text/plain; charset=utf-8", b"content-length")
_BYTES = (b"content-type", b"text/plain", b"content-length")
_JSON = (b"content-type", b"application/json", b"content-length")
PLAIN_TYPES = frozenset({str, bytes, dict, list, tuple, int, float, bool, type(None), Response, JSONResponse})
"""What needs no second look before `answer_for`: neither generators nor awaitables."""
STREAM_HEADERS = (b"content-type", b"text/plain; charset=utf-8")


class Answer(NamedTuple):
    """Made once per request: a named tuple costs a quarter of a frozen dataclass."""

    status: int
    headers: tuple[bytes, ...]
    """Flat: name, value, name, value."""
    body: bytes


def answer_for(result: Any) -> Answer | None:  # Any: whatever user code returned
    """A whole answer; None when `result` is an ASGI response that has to run."""
    if isinstance(result, str):
        return _answer(_TEXT, result.encode("utf-8"))
    if isinstance(result, Response):
        return _taken_apart(result)
    if result is None:
        return _answer(_TEXT, b"")
    if isinstance(result, (bytes, bytearray, memoryview)):
        return _answer(_BYTES, bytes(result))
    return _answer(_JSON, to_json(result))


def _answer(headers: tuple[bytes, ...], body: bytes) -> Answer:
    return Answer(200, (*headers, b"%d" % len(body)), body)


def _taken_apart(response: Response) -> Answer | None:
    if type(response).__call__ is not Response.__call__ or response.background is not None:
        return None
    return Answer(response.status_code, flat_headers(response.raw_headers), bytes(response.body))


def flat_headers(pairs: Any) -> tuple[bytes, ...]:
    """ASGI's pairs as the wire's flat list; whatever bytes-like the application used."""
    return tuple(bytes(item) for pair in pairs for item in pair)


def answer_for_error(error: BaseException) -> Answer | None:
    """Errors that are an answer by themselves: starlette's HTTPException, and refusals of child calls."""
    from starlette.exceptions import HTTPException

    if isinstance(error, HTTPException):
        headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (error.headers or {}).items()]
        plain = Response(error.detail, error.status_code, media_type="text/plain")
        return Answer(error.status_code, flat_headers([*plain.raw_headers, *headers]), bytes(plain.body))
    if isinstance(error, BackPressureError):
        retry_after_s = error.retry_after_s if error.retry_after_s is not None else 1.0
        return _refusal(error.status_code, error, retry_after_s)
    if isinstance(error, (DeploymentUnavailableError, QueueTimeoutError)):
        return _refusal(error.http_status, error, 1.0)
    if isinstance(error, DeadlineExceededError):
        return _refusal(error.http_status, error, None)
    return None


def _refusal(status: int, error: BaseException, retry_after_s: float | None) -> Answer:
    answer = _answer(_TEXT, str(error).encode("utf-8"))
    headers = answer.headers
    if retry_after_s is not None:
        headers += (b"retry-after", b"%d" % max(1, -int(-retry_after_s // 1)))
    return Answer(status, headers, answer.body)


def chunk_bytes(item: Any) -> bytes:
    """One item of a generator that answers HTTP: text and bytes as they are, other values as a line of JSON."""
    if isinstance(item, str):
        return item.encode("utf-8")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    return to_json(item) + b"\n"
