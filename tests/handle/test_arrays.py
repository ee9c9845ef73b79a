"""Arrays and tensors through real replicas: sizes, streams, writing to what arrived."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import serve_rt as serve
from serve_rt.handle import DeploymentHandle
from tests.handle.array_apps import Arrays, Forwarder

pytestmark = pytest.mark.cluster
ONE_CPU = {"num_cpus": 0.1}
HUNDRED_MB = 100_000_000


@pytest.fixture(scope="module")
def forwarder(own_cluster: str) -> DeploymentHandle[Any]:
    arrays = Arrays.options(ray_actor_options=ONE_CPU).bind()
    return serve.run(Forwarder.options(ray_actor_options=ONE_CPU).bind(arrays), name="arrays", route_prefix=None)


@pytest.fixture(scope="module")
def arrays(forwarder: Any) -> DeploymentHandle[Any]:
    return serve.get_deployment_handle("_Arrays", "arrays")


def test_a_hundred_megabytes_there_and_back(arrays: Any) -> None:
    sent = np.ones(HUNDRED_MB, np.uint8)
    began_s = time.monotonic()
    total, writable, owns = arrays.total.remote(sent).result(timeout_s=60)
    there_s = time.monotonic() - began_s
    assert (total, writable, owns) == (HUNDRED_MB, True, False), "built on what arrived"
    assert sent[0] == 1
    began_s = time.monotonic()
    back = arrays.ones.remote(HUNDRED_MB).result(timeout_s=60)
    assert back.nbytes == HUNDRED_MB and not back.flags.owndata
    back[0] = 9
    print(f"100 MB as an argument: {there_s:.2f} s, as a result: {time.monotonic() - began_s:.2f} s")


@pytest.mark.parametrize("size", [10, 60_000, 70_000, 3_000_000])
def test_every_size_arrives_writable(arrays: Any, size: int) -> None:
    total, writable, _ = arrays.total.remote(np.ones(size, np.uint8)).result(timeout_s=30)
    assert (total, writable) == (size, True)
    pair = arrays.pair.remote(size).result(timeout_s=30)
    assert pair["left"].sum() == 1.5 * size and pair["right"][0][-1] == size - 1 and pair["right"][1] == "text"
    pair["left"][0] = 2


def test_bytes_of_any_size(arrays: Any) -> None:
    for data in (b"x" * 5_000_000, bytearray(b"y" * 5_000_000)):
        assert arrays.length.remote(data).result(timeout_s=30) == (type(data).__name__, 5_000_000)


def test_streams_of_arrays(arrays: Any) -> None:
    for method in (arrays.rows, arrays.async_rows):
        rows = list(method.options(stream=True).remote(20, 100_000))
        assert [int(row[0]) for row in rows] == list(range(20)) and all(row.nbytes == 400_000 for row in rows)
        rows[0][:] = 5
        assert rows[1][0] == 1


def test_an_array_goes_from_replica_to_replica_as_it_came(forwarder: Any) -> None:
    assert forwarder.total.remote(5_000_000).result(timeout_s=30)[:2] == (5_000_000.0, True)


def test_tensors(arrays: Any) -> None:
    torch = pytest.importorskip("torch")
    sent = torch.arange(500_000, dtype=torch.float32)
    doubled = arrays.double.remote(sent).result(timeout_s=60)
    assert torch.equal(doubled, sent * 2) and sent[1] == 1
