"""The driver's loop: one per process, and what a fork does to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_rt.handle.driver_loop import driver_loop


async def _answer() -> int:
    return 42


def test_one_loop_for_all_and_no_waiting_for_itself() -> None:
    assert driver_loop() is driver_loop()
    assert driver_loop().run(_answer()) == 42

    async def blocking() -> None:
        driver_loop().run(_answer())

    with pytest.raises(RuntimeError, match="serve's own event loop"):
        driver_loop().run(blocking())


FORK = """
import os, sys
from serve_rt.handle.driver_loop import driver_loop
async def answer(): return 42
if sys.argv[1] == "used":
    assert driver_loop().run(answer()) == 42
child = os.fork()
if not child:
    try:
        print(driver_loop().run(answer(), 5), flush=True)
    except Exception as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize(("when", "said"), [("used", "does not survive a fork"), ("unused", "42")])
def test_a_forked_child(when: str, said: str) -> None:
    ended = subprocess.run([sys.executable, "-c", FORK, when], capture_output=True, text=True, timeout=30)
    assert said in ended.stdout, ended
