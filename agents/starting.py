"""Everything a replica's process needs before its fork: blobs, unpacked code, a port, an environment.

Called by `keeper` for each incarnation; gives the SpawnSpec that goes to the launcher. All of it can fail, and a
failure here is a failed start of the replica, with its reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import msgspec

from serve_rt.agents.blobs import BlobStore
from serve_rt.agents.devices import Devices
from serve_rt.agents.gpus import device_env
from serve_rt.agents.launcher.records import ProcessKind, SpawnSpec
from serve_rt.agents.memory import Copy
from serve_rt.agents.node import ThisNode
from serve_rt.agents.ports import choose_port
from serve_rt.model.replica import Assignment
from serve_rt.model.starts import ReplicaStart

ENTRY = "serve_rt.replica.main:run"


class Starter:
    def __init__(
        self, node: ThisNode, blobs: BlobStore, ports_taken: Callable[[], Collection[int]], devices: Devices
    ) -> None:
        self.devices = devices
        self._node = node
        self._blobs = blobs
        self._ports_taken = ports_taken

    def with_port(self, copy: Copy) -> Copy:
        """`copy` with the port it had, or a new one when it has none or a stranger sits there."""
        taken = self._ports_taken()
        port = choose_port(self._node.replica_host, self._node.settings.replica_ports, taken, copy.port)
        return replace(copy, port=port)

    async def prepare(self, copy: Copy, incarnation: int) -> SpawnSpec:
        """*Errors*: ServeException: a blob that nobody has, a code zip that is refused."""
        spec = copy.assignment.spec
        payload = await self._blobs.ensure(spec.payload)
        code = await self._blobs.code_dir(spec.code) if spec.code is not None else None
        await self.devices.note(copy.assignment.devices)
        start = self._start(copy, incarnation, payload, code)
        log_path = self._node.state.replica_log(copy.assignment.app, copy.assignment.replica_id)
        log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SpawnSpec(
            kind=ProcessKind.REPLICA,
            name=copy.assignment.replica_id,
            incarnation=incarnation,
            entry=ENTRY,
            start=msgspec.to_builtins(start),
            env=replica_env(copy.assignment),
            cwd=str(code) if code is not None else os.getcwd(),
            sys_path=(str(code),) if code is not None else (),
            threads=threads_of(copy.assignment),
            log_path=str(log_path),
            title=f"serve-rt replica {copy.assignment.replica_id}",
        )

    def _start(self, copy: Copy, incarnation: int, payload: Path, code: Path | None) -> ReplicaStart:
        return ReplicaStart(
            cluster=self._node.cluster,
            node_id=self._node.node_id,
            assignment=copy.assignment,
            incarnation=incarnation,
            host=self._node.replica_host,
            port=copy.port,
            token_path=str(self._node.state.token),
            agent_address=self._node.address,
            payload_path=str(payload),
            code_dir=str(code) if code is not None else None,
            state_dir=str(self._node.state.path),
            advertise_host=self._node.settings.advertised,
            orphan_timeout_s=self._node.settings.orphan_timeout_s,
        )


def threads_of(assignment: Assignment) -> int:
    return max(1, math.ceil(assignment.spec.options.resources.milli_cpu / 1000))


def replica_env(assignment: Assignment) -> dict[str, str]:
    """The deployment's own variables win over ours, except for which devices it may see."""
    ours = {"OMP_NUM_THREADS": str(threads_of(assignment))}
    return {**ours, **assignment.spec.options.env_vars, **device_env(assignment.devices)}
