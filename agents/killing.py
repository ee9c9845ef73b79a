"""The end of a replica's process against its will: first where it stood, if it took too long, then SIGKILL until its
end is told. Called by `keeper`.

For the stacks the replica is asked first: its main loop answers while user code hangs on a thread of its own. One that
cannot answer (a constructor that holds the interpreter, a process that never came to listen) is sent SIGQUIT, which
`faulthandler` turns into a traceback in its log without needing the interpreter. Bounded: a kill waits 3 s at most.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.replica_link import ReplicaLink
from serve_rt.errors import ServeException
from serve_rt.model.ids import ReplicaId

log = logging.getLogger(__name__)
MAX_CHARS = 4000
KILL_AGAIN_S = 5.0
LOG_WAIT_S = 1.0
LOG_POLL_S = 0.02
_MARK = "most recent call first"


async def kill_until_dead(launcher: LauncherLink, replica: ReplicaId, incarnation: int, dead: asyncio.Event) -> None:
    """SIGKILL to the whole group, again until its end is told."""
    while not dead.is_set():
        try:
            await launcher.kill_group(replica, incarnation)
        except ServeException as error:
            log.warning("cannot kill %s yet: %s", replica, error, extra={"action": "kill_failed"})
        try:
            async with asyncio.timeout(KILL_AGAIN_S):
                await dead.wait()
        except TimeoutError:
            continue


async def last_stacks(
    launcher: LauncherLink, link: ReplicaLink | None, replica: ReplicaId, incarnation: int, log_path: Path
) -> str:
    """Where it stands, user code first, cut to MAX_CHARS; "" when that cannot be had."""
    text = ""
    try:
        if link is not None:
            text = await link.dump_stacks()
    except ServeException as error:
        log.info("stacks of %s by signal: %s", replica, error, extra={"action": "stacks_by_signal"})
    if not text:
        try:
            text = await _from_log(launcher, replica, incarnation, log_path)
        except ServeException as error:
            log.warning("no stacks of %s: %s", replica, error, extra={"action": "stacks_failed"})
    return text.strip()[:MAX_CHARS]


async def _from_log(launcher: LauncherLink, replica: ReplicaId, incarnation: int, log_path: Path) -> str:
    before = _size(log_path)
    await launcher.signal(replica, incarnation, signal.SIGQUIT)
    known = ""
    for _ in range(int(LOG_WAIT_S / LOG_POLL_S)):
        await asyncio.sleep(LOG_POLL_S)
        text = _since(log_path, before)
        if _MARK in text and text == known:  # written, and nothing more came since the last look
            return text
        known = text
    return known if _MARK in known else ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _since(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(MAX_CHARS * 4).decode("utf-8", "replace")
    except OSError:
        return ""
