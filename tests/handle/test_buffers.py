"""Values whose buffers stand beside their pickle: framing, copies, what arrives."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_rt.errors import ServeException
from serve_rt.handle import buffers
from serve_rt.handle.buffers import OUT_OF_BAND_BYTES, gather
from serve_rt.handle.serialization import Forwarded, dump_value, dumps, load_value, loads

BIG = 4 * OUT_OF_BAND_BYTES


def lies_in(array: Any, data: bytearray) -> bool:
    return bool(np.shares_memory(array, np.frombuffer(data, np.uint8)))


def test_small_values_are_plain_pickles() -> None:
    for value in (1, "a", [b"x" * 100], np.arange(10), b"x" * (OUT_OF_BAND_BYTES - 1)):
        assert pickle.loads(dump_value(value)) is not None


def test_an_array_is_built_on_the_bytes_that_arrived_and_can_be_written_to() -> None:
    sent = np.arange(BIG, dtype=np.float64).reshape(4, -1)
    arrived = bytearray(dumps((sent,), {"again": {"deep": [sent[1:]]}}))
    (first,), kwargs = loads(arrived)
    second = kwargs["again"]["deep"][0]
    assert np.array_equal(first, sent) and np.array_equal(second, sent[1:])
    assert lies_in(first, arrived) and lies_in(second, arrived)
    first[:] = 7
    assert sent[0, 1] == 1 and second[0, 0] == BIG // 4, "the sender's array and the other argument are untouched"


def test_bytes_that_cannot_be_written_to_are_copied_so_that_arrays_can() -> None:
    packed = dump_value(np.zeros(BIG, np.uint8))
    array = load_value(packed)
    array += 1
    assert int(load_value(packed).sum()) == 0


def test_what_is_packed_is_a_snapshot() -> None:
    array = np.zeros(BIG, np.uint8)
    packed = dump_value(array)
    array += 1
    assert int(load_value(packed).sum()) == 0


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_plain_bytes_stay_what_they_are(kind: type) -> None:
    data = kind(b"abc" * BIG)
    assert dump_value(data)[0] == 0, "beside the pickle"
    for value in (load_value(dump_value(data)), loads(dumps((data,), {}))[0][0], loads(dumps((), {"x": data}))[1]["x"]):
        assert type(value) is kind and value == data


def test_arrays_of_odd_layout_arrive_equal() -> None:
    base = np.arange(BIG).reshape(-1, 8)
    for array in (base.T, base[::3], base[:, ::2], np.asfortranarray(base), base[:0], base.astype(">f4")):
        assert np.array_equal(load_value(bytearray(dump_value(array))), array)
    objects = np.array([{"a": 1}, None] * 10, dtype=object)
    assert list(load_value(dump_value(objects))) == list(objects)


def test_what_goes_by_value_takes_its_arrays_along() -> None:
    array = np.arange(BIG)

    def local() -> Any:
        return array

    arrived = bytearray(dump_value(local))
    built = load_value(arrived)()
    assert np.array_equal(built, array) and lies_in(built, arrived)


def test_a_forwarded_answer_is_opened_where_it_arrives() -> None:
    answer = bytearray(dump_value({"x": np.arange(BIG)}))
    arrived = bytearray(dumps((Forwarded(answer), Forwarded(dump_value("small"))), {}))
    (value, small), _ = loads(arrived)
    assert small == "small" and np.array_equal(value["x"], np.arange(BIG)) and lies_in(value["x"], arrived)


@given(st.lists(st.integers(0, 3 * OUT_OF_BAND_BYTES), max_size=6), st.integers(1, 70_000))
def test_any_number_of_buffers_in_any_pieces(sizes: list[int], piece: int) -> None:
    value = [np.full(size, index, np.uint8) for index, size in enumerate(sizes)]
    packed = dump_value(value)
    arrived: bytes | bytearray = b""
    for at in range(0, len(packed), piece):
        arrived = gather(arrived, packed[at : at + piece])
    opened = load_value(arrived)
    assert all(np.array_equal(one, other) for one, other in zip(value, opened, strict=True))


def test_damaged_and_newer_frames_are_refused_by_name() -> None:
    packed = dump_value(np.zeros(BIG, np.uint8))
    for cut in (5, 30, 100, len(packed) - 1):
        with pytest.raises(ServeException, match="cut short|unknown"):
            load_value(packed[:cut])
    newer = packed[:4] + bytes([buffers.FORMAT + 1]) + packed[5:]
    with pytest.raises(ServeException, match="format 2; this process reads 1"):
        load_value(newer)
    with pytest.raises(ServeException, match="first bytes are unknown"):
        load_value(b"\0" * 100)


def test_tensors_travel_as_buffers() -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(BIG, dtype=torch.float32).reshape(-1, 16)
    kinds = [
        base,
        base.to(torch.bfloat16),
        base > 7,
        base.t(),
        base[:, 3],
        base.to(torch.complex64),
        base[:1],
        torch.zeros(0),
        base.clone().requires_grad_(),
        torch.nn.Parameter(base.clone()),
        base.to_sparse(),
        base.to(torch.complex64).conj(),
    ]
    for tensor in kinds:
        packed = dump_value({"t": tensor})
        opened = load_value(bytearray(packed))["t"]
        assert type(opened) is type(tensor) and opened.dtype == tensor.dtype
        assert opened.requires_grad == tensor.requires_grad and opened.layout == tensor.layout
        assert torch.equal(opened.to_dense().resolve_conj(), tensor.to_dense().resolve_conj())
    row = dump_value(torch.zeros(1000, BIG)[0])
    assert len(row) < 8 * BIG, "of a view only what it shows travels"
    arrived = bytearray(dump_value(base))
    opened = load_value(arrived)
    assert lies_in(opened.numpy(), arrived)
    opened += 1
    assert base[0, 0] == 0
