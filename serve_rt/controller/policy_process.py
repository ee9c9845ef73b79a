"""The process of one autoscaling policy of the user's own: `python -m serve_rt.controller.policy_process`.

The leader starts it (`policy_host`) and owns its standard input: one JSON line says what to load, then each line is a
question and gets one line of answer. Here, in replicas, and nowhere else user code is imported and unpickled: the
controller reads numbers and JSON text. It ends when its input ends, also in the middle of a policy that never returns.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import inspect
import json
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from serve_rt.config.autoscaling import AutoscalingContext, DeploymentID, context_of

MOST_WAITING = 16
"""Questions; the leader asks one after another."""
Policy = Callable[[Any], Any]  # Any: a context or a dict of them in, user code's answer out


def main() -> None:
    os.nice(5)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the policy prints is no answer
    asyncio.run(_serve(answers))


async def _serve(answers: TextIO) -> None:
    """In an event loop, for policies with tasks of their own: those run between the questions."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    arguments = (lines, asyncio.get_running_loop())
    threading.Thread(target=_read, args=arguments, name="input", daemon=True).start()
    policy = _loaded(json.loads(await lines.get()), answers)
    while policy is not None:
        _tell(answers, await _answer(policy, json.loads(await lines.get())))


def _read(lines: asyncio.Queue[str], loop: asyncio.AbstractEventLoop) -> None:
    for line in sys.stdin:
        if lines.qsize() >= MOST_WAITING:
            break
        loop.call_soon_threadsafe(lines.put_nowait, line)
    os._exit(0)  # the leader is gone


def _tell(answers: TextIO, value: Mapping[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)


def _loaded(order: Mapping[str, Any], answers: TextIO) -> Policy | None:
    try:
        policy = load(order)
    except Exception:  # user code: told to the user
        _tell(answers, {"error": traceback.format_exc(limit=-8)})
        return None
    _tell(answers, {"loaded": True})
    return policy


def load(order: Mapping[str, Any]) -> Policy:
    """The callable that `order` names. A class is instantiated once with the policy's kwargs, a function gets them at
    each call."""
    if order["code"]:
        sys.path.insert(0, order["code"])
    if order["payload"]:
        from serve_rt.api.payload import unpack

        target: Any = unpack(base64.b64decode(order["payload"])).target
    else:
        target = _imported(order["name"])
    kwargs = json.loads(order["kwargs_json"])
    if inspect.isclass(target):
        target, kwargs = target(**kwargs), {}
    return lambda given: target(given, **kwargs)


def _imported(path: str) -> Any:
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


async def _answer(policy: Policy, question: Mapping[str, Any]) -> dict[str, Any]:
    contexts = [context_of(values) for values in question["contexts"]]
    asked = {ctx.deployment_id: ctx for ctx in contexts} if question["application"] else contexts[0]
    try:
        said = policy(asked)
        if inspect.isawaitable(said):
            said = await said
        decided = _of_application(said, contexts) if question["application"] else [_of_one(said)]
        return {"replicas": [number for number, _ in decided], "states": [state for _, state in decided]}
    except Exception:  # user code
        return {"error": traceback.format_exc(limit=-8)}


def _of_one(said: Any) -> tuple[float | None, dict[str, Any]]:
    number, state = said
    return _number(number), _state(state)


def _of_application(said: Any, contexts: list[AutoscalingContext]) -> list[tuple[float | None, dict[str, Any]]]:
    """What the answer leaves out stays as it is."""
    numbers, states = said
    unknown = set(numbers) - {ctx.deployment_id for ctx in contexts}
    if unknown:
        raise ValueError(f"the policy decided on deployments that are not there: {', '.join(map(str, unknown))}")
    return [_picked(ctx.deployment_id, numbers, states or {}, ctx.policy_state) for ctx in contexts]


def _picked(
    one: DeploymentID, numbers: Mapping[DeploymentID, Any], states: Mapping[DeploymentID, Any], state: Any
) -> tuple[float | None, dict[str, Any]]:
    return (_number(numbers[one]) if one in numbers else None), _state(states.get(one, state))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise TypeError(f"a policy returns (number of replicas, state); the number was {value!r}")
    return float(value)


def _state(value: Any) -> dict[str, Any]:
    """*Errors*: TypeError for what is not a dict of JSON: it would not survive this process."""
    if value is not None and not isinstance(value, dict):
        raise TypeError(f"a policy returns (number of replicas, state); the state was {value!r}, not a dict")
    kept: dict[str, Any] = json.loads(json.dumps(value or {}))
    return kept


if __name__ == "__main__":
    main()
