"""Where all threads and tasks of this process stand, user code first. Read by people: `serve status` shows it when a
constructor took too long. Answered by the main loop (`service`), whatever user code does on its own.
"""

from __future__ import annotations

import asyncio
import faulthandler
import tempfile
import threading
from typing import Any

from serve_rt.aio.awaiting import awaiting

MAX_TASKS_SHOWN = 200
_HEADER_END = " (most recent call first):"


def stacks(user_loop: asyncio.AbstractEventLoop, user_thread: int | None) -> str:
    """User code's thread, the tasks on its loop, then all other threads."""
    of_user, _, others = thread_stacks(user_thread).partition("\n\n")
    return "\n\n".join(part for part in (of_user, task_stacks(user_loop), others) if part)


def thread_stacks(first: int | None = None) -> str:
    """Every thread's; that of the thread `first` leads. Written by C code that needs nothing of a broken interpreter
    but a descriptor."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        blocks = file.read().strip().split("\n\n")
    names = {f"{thread.ident:#018x}": thread.name for thread in threading.enumerate() if thread.ident is not None}
    wanted = f"{first:#018x}" if first is not None else ""
    ordered = sorted(blocks, key=lambda block: wanted not in block.partition("\n")[0])
    return "\n\n".join(_named(block, names) for block in ordered)


def _named(block: str, names: dict[str, str]) -> str:
    header, _, rest = block.partition("\n")
    ident = header.removesuffix(_HEADER_END).rpartition(" ")[2]
    return f"Thread {names[ident]!r}{_HEADER_END}\n{rest}" if ident in names else block


def task_stacks(loop: asyncio.AbstractEventLoop) -> str:
    """Where the tasks of the user loop wait: an async function has no thread to be seen in."""
    try:
        tasks = list(asyncio.all_tasks(loop))
    except RuntimeError:  # the set changed while it was read from this thread, again and again
        return "(the tasks of the user loop changed too fast to be listed)"
    return "\n\n".join(_task_stack(task) for task in tasks[:MAX_TASKS_SHOWN])


def _task_stack(task: asyncio.Task[Any]) -> str:
    """All awaits down to the one it waits in."""
    lines = [
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
        for frame in awaiting(task.get_coro())
    ]
    return "\n".join([f"Task {task.get_name()!r}{_HEADER_END}", *reversed(lines)])
