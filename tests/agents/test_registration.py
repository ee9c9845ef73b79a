"""The node's record while etcd comes and goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serve_rt.agents.node import ThisNode
from serve_rt.agents.registration import Registration
from serve_rt.agents.settings import Settings
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken
from serve_rt.etcd import Keys
from serve_rt.model.ids import NodeId
from serve_rt.model.node import NodeRecord
from serve_rt.model.resources import NodeResources
from serve_rt.model.starts import EtcdAddress
from serve_rt.testing.fake_etcd import FakeEtcd
from serve_rt.wire.records import decode

KEYS = Keys("test")
RESOURCES = NodeResources(1000, 1 << 30, ())


def test_a_changed_record_waits_for_an_etcd_that_is_away(tmp_path: Path) -> None:
    """It ended the agent: quarantining a device while etcd was away was an error nobody expected."""

    async def main() -> None:
        etcd = FakeEtcd()
        settings, token = Settings(StateDir(tmp_path)), ClusterToken(bytes(32))
        address = EtcdAddress(())
        node = ThisNode(settings, NodeId("n"), "s1", "boot", token, RESOURCES, "n:1", address, hosts_etcd=False)
        quarantined: dict[str, str] = {}

        def record() -> NodeRecord:
            return NodeRecord(NodeId("n"), "n:1", "s1", "boot", RESOURCES, quarantined=dict(quarantined))

        registration = Registration(etcd, KEYS, node, record)
        await registration.register()
        etcd.unavailable = True
        quarantined["GPU-a"] = "its memory did not come back"
        updating = asyncio.create_task(registration.update())
        await asyncio.sleep(0.05)
        assert not updating.done()
        etcd.unavailable = False
        await asyncio.wait_for(updating, 5)
        found = await etcd.get(KEYS.node(NodeId("n")))
        assert found is not None and decode(found.value, NodeRecord).quarantined == quarantined
        await registration.leave()
        await etcd.close()

    asyncio.run(main())
