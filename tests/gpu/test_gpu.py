"""With an NVIDIA GPU: discovery by UUID, shares of devices, models on the GPU, its memory free after kill -9."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually
from tests.examples.served import serve_run

MIB = 1 << 20


def used_bytes(uuid: str) -> int:
    import pynvml

    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid)).used)
    finally:
        pynvml.nvmlShutdown()


@pytest.mark.timeout(300)
def test_devices_are_found_by_uuid(gpus: list[str]) -> None:
    cluster = LocalCluster(hide_gpus=False)
    try:
        cluster.start_node()
        [node] = cluster.node.nodes().nodes
        assert sorted(node.gpus) == sorted(gpus)
    finally:
        cluster.close()


@pytest.mark.timeout(300)
def test_parts_and_whole_devices_are_given_out(gpus: list[str]) -> None:
    cluster = LocalCluster(hide_gpus=False)
    try:
        cluster.start_node()
        half = {"num_cpus": 0.1, "num_gpus": 0.5}
        cluster.deploy("echo", num_replicas=2, ray_actor_options=half)
        shares = [replica.devices for node in cluster.node.nodes().nodes for replica in node.replicas]
        assert len(shares) == 2 and all(list(share.values()) == [500] for share in shares)
        assert {uuid for share in shares for uuid in share} <= set(gpus)

        assert cluster.cli("delete", "default").returncode == 0
        eventually(lambda: not cluster.node.replicas(), 30, "the halves are given back")
        cluster.deploy("echo", ray_actor_options={"num_cpus": 0.1, "num_gpus": 1})
        [whole] = [replica.devices for node in cluster.node.nodes().nodes for replica in node.replicas]
        assert list(whole.values()) == [1000]
    finally:
        cluster.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("serve_rt.examples.chat:app", json.dumps({"user_input": "hello there", "history": []})),
        ("serve_rt.examples.embed:gpu_app", {"text": "a cat sleeps on the sofa"}),
    ],
)
def test_models_run_on_the_gpu_and_give_its_memory_back(gpus: list[str], target: str, body: object) -> None:
    before = used_bytes(gpus[0])
    with serve_run(target, env={"CUDA_VISIBLE_DEVICES": gpus[0]}, timeout_s=180) as served:
        assert served.post(body)
        assert used_bytes(gpus[0]) > before + 100 * MIB, "the model is on the GPU"
        _kill_replica_and_wait(served.folder)
        eventually(lambda: _answers(lambda: served.post(body)), 90, "the next incarnation answers")
    eventually(lambda: used_bytes(gpus[0]) < before + 50 * MIB, 30, "its memory is free again")


def _answers(ask: object) -> bool:
    assert callable(ask)
    try:
        return bool(ask())
    except (AssertionError, OSError):
        return False


def _kill_replica_and_wait(folder: object) -> None:
    from pathlib import Path

    from tests.cluster.processes import handle_files

    assert isinstance(folder, Path)
    replicas = [handle for handle in handle_files(folder / "s") if handle.kind == "replica"]
    for replica in replicas:
        replica.process.signal(signal.SIGKILL)
    time.sleep(0.1)
    assert not any(replica.process.alive() for replica in replicas)
