"""A GPU between two processes: free again, or quarantined until it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_rt.agents import life_cycle
from serve_rt.agents.devices import SLACK_BYTES, Devices, Held, why_not_free
from serve_rt.agents.gpus import DeviceUse
from serve_rt.agents.life_cycle import Record
from serve_rt.agents.memory import AgentMemory
from serve_rt.config.paths import StateDir
from serve_rt.controller.room import NodeRoom
from serve_rt.model.ids import NodeId, ReplicaId
from serve_rt.model.node import NodeRecord
from serve_rt.model.replica import ReplicaState
from serve_rt.model.resources import DeviceShare, Gpu, NodeResources

GIB = 1 << 30
IDLE = DeviceUse(GIB, frozenset())
WHOLE, HALF = DeviceShare("GPU-a", 1000), DeviceShare("GPU-a", 500)


@pytest.mark.parametrize(
    ("held", "now", "said"),
    [
        (Held(7, IDLE, alone=True), DeviceUse(GIB + SLACK_BYTES, frozenset({8})), ""),
        (Held(7, IDLE, alone=True), DeviceUse(3 * GIB, frozenset()), "2048 MiB"),
        (Held(7, IDLE, alone=True), DeviceUse(GIB, frozenset({7})), "process 7"),
        (Held(7, IDLE, alone=False), DeviceUse(3 * GIB, frozenset({8})), ""),  # a neighbour's memory
        (Held(7, None, alone=True), DeviceUse(3 * GIB, frozenset()), ""),  # how it was before is not known
    ],
)
def test_free_or_not(held: Held, now: DeviceUse, said: str) -> None:
    reason = why_not_free(held, now)
    assert said in reason and bool(reason) == bool(said)


class FakeDriver:
    def __init__(self) -> None:
        self.use = IDLE
        self.asked = 0

    def read(self, _uuid: str) -> DeviceUse:
        self.asked += 1
        return self.use


def test_the_next_one_waits_until_the_memory_is_back() -> None:
    async def main() -> None:
        driver = FakeDriver()
        devices = Devices(read=driver.read)
        await devices.note([WHOLE])
        driver.use = DeviceUse(9 * GIB, frozenset({7}))
        waiting = asyncio.create_task(devices.until_free([WHOLE], 7))
        while driver.asked < 3:
            assert not waiting.done()
            await asyncio.sleep(0.01)
        driver.use = IDLE
        assert await asyncio.wait_for(waiting, 5) == "" and not devices.quarantined

    asyncio.run(main())


def test_what_does_not_come_back_is_quarantined_and_given_back_when_it_does() -> None:
    async def main() -> None:
        driver, changed = FakeDriver(), asyncio.Event()

        async def tell() -> None:
            await asyncio.sleep(0.01)  # etcd takes a moment
            changed.set()

        devices = Devices(tell, driver.read, return_s=0.2, look_again_s=0.01)
        await devices.note([WHOLE])
        driver.use = DeviceUse(9 * GIB, frozenset())
        assert "GPU GPU-a is quarantined: 8192 MiB" in await devices.until_free([WHOLE], 7)
        assert "8192 MiB" in devices.quarantined["GPU-a"] and changed.is_set()  # told before it is free

        changed.clear()
        driver.use = IDLE
        watching = asyncio.create_task(devices.run())
        await asyncio.wait_for(changed.wait(), 5)
        assert not devices.quarantined
        watching.cancel()

    asyncio.run(main())


def test_a_quarantine_outlives_the_agent_and_not_the_machines_life(tmp_path: Path) -> None:
    async def main() -> None:
        driver, memory = FakeDriver(), AgentMemory(StateDir(tmp_path))
        first = Devices(read=driver.read, return_s=0.0, memory=memory, boot_id="b1")
        await first.note([WHOLE])
        driver.use = DeviceUse(9 * GIB, frozenset())
        await first.until_free([WHOLE], 7)

        second = Devices(read=driver.read, look_again_s=0.01, memory=memory, boot_id="b1")
        assert second.quarantined == first.quarantined != {}
        assert not Devices(read=driver.read, memory=memory, boot_id="b2").quarantined
        watching = asyncio.create_task(second.run())
        await asyncio.sleep(0.05)
        assert second.quarantined, "it is held still: what was used before is remembered, too"
        driver.use = IDLE
        async with asyncio.timeout(5):
            while second.quarantined:  # noqa: ASYNC110  # nothing is told without a registration
                await asyncio.sleep(0.01)
        watching.cancel()
        assert not Devices(read=driver.read, memory=memory, boot_id="b1").quarantined

    asyncio.run(main())


def test_fake_devices_are_never_looked_at() -> None:
    def refuse(_uuid: str) -> DeviceUse:
        raise AssertionError("asked the driver about a fake device")

    fake = [DeviceShare("FAKE-n-0", 1000)]
    devices = Devices(read=refuse)
    asyncio.run(devices.note(fake))
    assert asyncio.run(devices.until_free(fake, 7)) == ""


def test_its_replica_is_given_up_so_that_the_leader_places_it_elsewhere() -> None:
    running = life_cycle.ready(life_cycle.spawned(life_cycle.spawning(Record(ReplicaId("a#D#x")), 1, 0.0), 7), 1.0)
    dead = life_cycle.swept(life_cycle.died(running, "killed", 3, 2.0), 3.0)
    lost = life_cycle.device_lost(dead, "GPU GPU-a is quarantined", 3.0)
    assert lost.state is ReplicaState.FAILED and lost.message == "GPU GPU-a is quarantined"

    drained = life_cycle.swept(life_cycle.died(life_cycle.draining(running, 1.0, 2.0), "exit code 0", 3, 2.5), 3.0)
    assert life_cycle.device_lost(drained, "GPU GPU-a is quarantined", 3.0) is drained, "it has ended as it should"


def test_placement_does_not_see_a_quarantined_device() -> None:
    gpus = tuple(Gpu(uuid, index, "H100", 80 * GIB) for index, uuid in enumerate(("GPU-a", "GPU-b")))
    record = NodeRecord(
        NodeId("n"),
        "n:1",
        "s",
        "boot",
        NodeResources(1000, GIB, gpus),
        quarantined={"GPU-a": "8 MiB did not come back"},
    )
    assert list(NodeRoom.empty(record, takes=True).devices) == ["GPU-b"]
