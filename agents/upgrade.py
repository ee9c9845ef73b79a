"""An agent of another version than the launcher it finds: the launcher is replaced before anything is started.

Fork parents have the code imported that was installed when the launcher started, so a proxy worker forked from them
would be of the old version whatever the agent is. The old launcher steps down, which its children survive; the next one
adopts them and takes the HTTP sockets back from the living workers. `children` then replaces workers and controller,
because their start names another version. Replicas go on: their version is the user's matter.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from serve_rt.agents.launcher.records import Handle
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.version import software
from serve_rt.config.paths import StateDir

log = logging.getLogger(__name__)


async def upgrade_launcher(launcher: LauncherLink, state: StateDir, found: tuple[Handle, ...]) -> tuple[Handle, ...]:
    """What runs here, under a launcher of our version."""
    if not _anything_runs(found):
        return found  # started a moment ago, by us
    before = noted_software(state)
    if before == software():
        return found
    log.warning("upgrading from %s to %s", before or "an unknown version", software(), extra={"action": "upgrading"})
    return await launcher.renew()


def noted_software(state: StateDir) -> str:
    try:
        return state.software.read_text().strip()
    except OSError:
        return ""


def note_software(state: StateDir) -> None:
    """For the next agent; written when this one is up, because looking the version up takes a moment."""
    if noted_software(state) != software():
        state.software.write_text(f"{software()}\n")


def _anything_runs(found: Iterable[Handle]) -> bool:
    return any(handle.exited is None for handle in found)
