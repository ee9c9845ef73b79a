"""CUDA_VISIBLE_DEVICES in all its forms, and what a replica gets to see."""

from __future__ import annotations

import pytest

from serve_rt.agents.gpus import device_env, discover, fake_gpus, visible
from serve_rt.model.ids import NodeId
from serve_rt.model.resources import DeviceShare, Gpu

A = Gpu("GPU-aaaa-1", 0, "H100", 80 << 30)
B = Gpu("GPU-aabb-2", 1, "H100", 80 << 30)
C = Gpu("MIG-cccc-3", 2, "H100 MIG 1g", 10 << 30)
ALL = (A, B, C)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0,1,2", (A, B, C)),
        ("2,0", (C, A)),
        ("GPU-aaaa-1", (A,)),
        ("GPU-aab", (B,)),
        ("GPU-aa", ()),  # not unique
        ("MIG-cccc-3", (C,)),
        ("0,7,1", (A,)),  # an invalid entry hides all after it
        ("-1,0", ()),
        ("0,0,1", (A,)),
        (" 1 , 0 ", (B, A)),
        ("none", ()),
    ],
)
def test_visible_devices(value: str, shown: tuple[Gpu, ...]) -> None:
    assert visible(ALL, value) == shown


def test_an_empty_variable_hides_everything() -> None:
    assert discover({"CUDA_VISIBLE_DEVICES": ""}) == ()


def test_fake_devices_are_never_shown_to_cuda() -> None:
    first, second = fake_gpus(NodeId("n"), 2)
    assert first.uuid != second.uuid
    env = device_env((DeviceShare(first.uuid, 500),))
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["SERVE_GPU_FRACTION"] == "0.5"


def test_no_gpu_asked_hides_all_gpus() -> None:
    assert device_env(())["CUDA_VISIBLE_DEVICES"] == ""


def test_real_devices_are_named_by_uuid() -> None:
    shares = (DeviceShare(A.uuid, 1000), DeviceShare(B.uuid, 1000))
    assert device_env(shares)["CUDA_VISIBLE_DEVICES"] == f"{A.uuid},{B.uuid}"
