"""The leader's end of one policy's process: starts it, asks it, ends it.

Owned by `policies`. The policy's code is a zip held in memory (a memfd the child inherits), so that nothing is left on
disk however either process ends. A policy that does not answer in time is killed and started again by the next
question, not sooner than AGAIN_S later.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serve_rt.errors import ServeException
from serve_rt.model.spec import PolicySpec

LOAD_S = 30.0
ANSWER_S = 5.0
AGAIN_S = 5.0
MAX_LINE_BYTES = 1 << 20


class PolicyError(ServeException):
    """The policy raised, or did not answer; the text is for its author."""


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    replicas: tuple[float | None, ...]
    """One for each context; None: no opinion."""
    states: tuple[str, ...]
    """JSON."""


@dataclass(frozen=True, slots=True)
class _Line:
    """What the process may say: user code runs there, so nothing of it is taken on trust."""

    replicas: tuple[float | None, ...] = ()
    states: tuple[dict[str, Any], ...] = ()
    error: str = ""
    loaded: bool = False


class PolicyHost:
    """*Resources*: the owner awaits `close()`."""

    def __init__(self, policy: PolicySpec, payload: bytes, code: bytes) -> None:
        self._policy, self._payload, self._code = policy, payload, code
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, contexts: Sequence[Mapping[str, Any]], *, application: bool) -> PolicyAnswer:
        """*Errors*: PolicyError."""
        if self._process is None:
            await self._start()
        answer = await self._exchange({"contexts": contexts, "application": application}, ANSWER_S)
        if not len(answer.replicas) == len(answer.states) == len(contexts):
            count = len(answer.replicas)
            raise PolicyError(f"policy {self._policy.name!r} gave {count} answers to {len(contexts)} questions")
        return PolicyAnswer(answer.replicas, tuple(json.dumps(state) for state in answer.states))

    async def _start(self) -> None:
        code_fd = os.memfd_create("policy code") if self._code else -1
        try:
            if self._code:
                with os.fdopen(os.dup(code_fd), "wb") as file:
                    file.write(self._code)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "serve_rt.controller.policy_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if not name.startswith("SERVE_")},
                pass_fds=(code_fd,) if self._code else (),
                limit=MAX_LINE_BYTES,
                start_new_session=True,
            )
        finally:
            if self._code:
                os.close(code_fd)
        order = {
            "name": self._policy.name,
            "kwargs_json": self._policy.kwargs_json,
            "payload": base64.b64encode(self._payload).decode(),
            "code": f"/proc/self/fd/{code_fd}" if self._code else "",
        }
        await self._exchange(order, LOAD_S)

    async def _exchange(self, question: Mapping[str, Any], limit_s: float) -> _Line:
        """A failure on the way ends the process: whatever it says later is no answer to the next question."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        answered = False
        try:
            async with asyncio.timeout(limit_s):
                process.stdin.write(json.dumps(question).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            if not line:
                raise PolicyError(f"the process of policy {self._policy.name!r} ended")
            answer = msgspec.json.decode(line, type=_Line)
            answered = not any(number is not None and not 0 <= number < math.inf for number in answer.replicas)
            if not answered:
                raise PolicyError(f"policy {self._policy.name!r} gave numbers that are none: {answer.replicas}")
        except TimeoutError as error:
            raise PolicyError(f"policy {self._policy.name!r} did not answer within {limit_s:g} s") from error
        except (OSError, ValueError) as error:
            raise PolicyError(f"the process of policy {self._policy.name!r} broke: {error}") from error
        finally:
            if not answered:
                await asyncio.shield(self.close())
        if answer.error:
            raise PolicyError(f"policy {self._policy.name!r} raised:\n{answer.error}")
        return answer

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.kill()
        except ProcessLookupError:
            pass
        await process.wait()
