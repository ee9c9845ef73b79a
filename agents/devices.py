"""Is a device free again? A replica's next incarnation starts only when what the former one held of its GPUs is back.

`keeper` asks between the end of one process and the start of the next. A driver gives memory back within milliseconds;
where it does not within RETURN_S the device is quarantined: its replica is given up here, the leader places it
elsewhere and keeps away from the device until it is free, also when the agent is another one by then. Devices that are
only declared (fake) are never looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from serve_rt.agents.gpus import FAKE_PREFIX, DeviceUse, read_use
from serve_rt.agents.memory import AgentMemory, Quarantine, Quarantines
from serve_rt.model.resources import DeviceShare

log = logging.getLogger(__name__)
RETURN_S = 30.0
SLACK_BYTES = 256 << 20
"""Drivers keep a little after the first process of a boot."""
_POLL_S = 0.1
_LOOK_AGAIN_S = 5.0
WHOLE = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What a former process may still hold of one device."""

    pid: int
    before: DeviceUse | None
    """The device as it was before that process; None when another agent started it."""
    alone: bool
    """Nobody else is given a part of the device, so all of its memory counts."""


def why_not_free(held: Held, now: DeviceUse) -> str:
    """ "" when the device is free again."""
    if held.pid in now.pids:
        return f"process {held.pid} has ended and is still listed on it"
    if not held.alone or held.before is None:
        return ""
    left = now.used_bytes - held.before.used_bytes
    return f"{left >> 20} MiB of its memory did not come back" if left > SLACK_BYTES else ""


class Devices:
    """*Resources*: the owner runs `run()` for ever."""

    def __init__(
        self,
        on_change: Callable[[], Awaitable[object]] | None = None,
        read: Callable[[str], DeviceUse | None] = read_use,
        return_s: float = RETURN_S,
        look_again_s: float = _LOOK_AGAIN_S,
        *,
        memory: AgentMemory | None = None,
        boot_id: str = "",
    ) -> None:
        """`memory`: where quarantines outlive the agent, within one life of the machine; None: they do not."""
        self.quarantined: dict[str, str] = {}
        """Reasons by UUID."""
        self._on_change, self._read, self._return_s, self._look_again_s = on_change, read, return_s, look_again_s
        self._before: dict[str, DeviceUse] = {}
        self._held: dict[str, Held] = {}
        self._memory, self._boot_id = memory, boot_id
        self._wake = asyncio.Event()
        self._remember()

    def _remember(self) -> None:
        known = self._memory.load_quarantines() if self._memory is not None else Quarantines()
        if known.boot_id != self._boot_id:
            return
        for one in known.devices:
            before = None if one.used_before_bytes is None else DeviceUse(one.used_before_bytes, frozenset())
            self.quarantined[one.uuid], self._held[one.uuid] = one.reason, Held(one.pid, before, one.alone)
        if self._held:
            self._wake.set()

    def _write_down(self) -> None:
        if self._memory is None:
            return
        devices = tuple(
            Quarantine(
                uuid,
                self.quarantined[uuid],
                held.pid,
                held.alone,
                held.before.used_bytes if held.before is not None else None,
            )
            for uuid, held in self._held.items()
        )
        self._memory.save_quarantines(Quarantines(self._boot_id, devices))

    async def note(self, shares: Iterable[DeviceShare]) -> None:
        """Remember how much of the devices is used before a process starts on them."""
        for share in _real(shares):
            use = await self._look(share.uuid)
            if use is not None and share.milli >= WHOLE:
                self._before[share.uuid] = use

    async def until_free(self, shares: Iterable[DeviceShare], pid: int) -> str:
        """Wait for what the dead process `pid` held; why not, when it does not come back ("": it did)."""
        reasons = [await self._until_free(share, pid) for share in _real(shares)]
        return "; ".join(reason for reason in reasons if reason)

    async def _until_free(self, share: DeviceShare, pid: int) -> str:
        held = Held(pid, self._before.get(share.uuid), alone=share.milli >= WHOLE)
        deadline = asyncio.get_running_loop().time() + self._return_s
        while reason := await self._why_not(share.uuid, held):
            if asyncio.get_running_loop().time() >= deadline:
                await self._quarantine(share.uuid, held, reason)
                return f"GPU {share.uuid} is quarantined: {reason} within {self._return_s:g} s"
            await asyncio.sleep(_POLL_S)
        return ""

    async def _quarantine(self, uuid: str, held: Held, reason: str) -> None:
        """Known to the leader when this returns: what is told next is that the replica is gone, and then the device
        would look free (found by simulation)."""
        log.error("GPU %s is quarantined: %s", uuid, reason, extra={"action": "gpu_quarantined"})
        self.quarantined[uuid], self._held[uuid] = reason, held
        self._write_down()
        self._wake.set()
        await self._tell()

    async def _tell(self) -> None:
        if self._on_change is not None:
            await self._on_change()

    async def run(self) -> None:
        """Until cancelled: give quarantined devices back when they are free."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._look_again_s)
            for uuid, held in tuple(self._held.items()):
                if not await self._why_not(uuid, held):
                    log.warning("GPU %s is free again", uuid, extra={"action": "gpu_released"})
                    del self.quarantined[uuid], self._held[uuid]
                    self._write_down()
                    await self._tell()
            if not self._held:
                self._wake.clear()

    async def _why_not(self, uuid: str, held: Held) -> str:
        use = await self._look(uuid)
        return why_not_free(held, use) if use is not None else ""  # a driver that does not answer holds nobody up

    async def _look(self, uuid: str) -> DeviceUse | None:
        return await asyncio.to_thread(self._read, uuid)


def _real(shares: Iterable[DeviceShare]) -> list[DeviceShare]:
    return [share for share in shares if not share.uuid.startswith(FAKE_PREFIX)]
