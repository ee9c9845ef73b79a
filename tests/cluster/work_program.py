"""A driver with tasks and actors, told by its input when to go on: `python -m tests.cluster.work_program`."""

from __future__ import annotations

import os
import sys
import time

import serve_rt as serve
from serve_rt.exceptions import ActorDiedError

TASKS = 300


@serve.task(num_cpus=8)
def square(number: int) -> int:
    time.sleep(0.05)
    return number * number


class _Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> int:
        self.value += 1
        return self.value

    def place(self) -> tuple[int, str]:
        return os.getpid(), serve.get_replica_context().node_id


Counter = serve.actor(num_cpus=0.1)(_Counter)


def _say(*words: object) -> None:
    print(*words, flush=True)


def _add(actor: object) -> str:
    """The counter, "again" where it was begun anew meanwhile, or "ended"."""
    for _ in range(100):
        try:
            return str(serve.get(actor.add.remote(), timeout=60))  # type: ignore[attr-defined]  # an ActorHandle
        except ActorDiedError as error:
            if "has ended" in str(error):
                return "ended"
        time.sleep(0.1)
    return "never"


def main() -> None:
    again, once = Counter.options(max_restarts=1, name="again").remote(), Counter.options(name="once").remote()
    _say("actors", _add(again), _add(once), serve.get(again.place.remote())[1], serve.get(once.place.remote())[1])
    sys.stdin.readline()
    _say("after", _add(again), _add(once))
    refs = [square.remote(number) for number in range(TASKS)]
    serve.get(refs[0], timeout=60)
    _say("running")
    values = serve.get(refs, timeout=120)
    _say("tasks", values == [number * number for number in range(TASKS)])
    sys.stdin.readline()


if __name__ == "__main__":
    main()
