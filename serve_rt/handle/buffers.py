"""Pickled values whose large buffers stand beside the pickle, so that arrays are built on the bytes that arrived.

A value without large buffers is a plain pickle (first byte 0x80). One with them is a *frame* (first byte 0):

    magic, format version, number of buffers, size of the pickle | size of each buffer | pickle | buffers, each aligned

Packing copies a buffer once, into the frame: what the caller does to its array later must not change the call. Opening
copies nothing when the frame lies in a bytearray of its own (whoever gathers pieces gathers into one), and the arrays
that come out can be written to. Tensors of torch travel the same way; what torch's own pickling does is several copies.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

from serve_rt.errors import ServeException

PROTOCOL = 5
OUT_OF_BAND_BYTES = 16 << 10
"""Smaller buffers stay inside the pickle: copying them costs less than looking after them."""
FORMAT = 1
_MAGIC = b"\0srt"
_HEAD = struct.Struct("<4sB3xIQ")
_ALIGN = 64

Received = bytes | bytearray | memoryview
"""What came over the wire: bytes in one piece, or a bytearray gathered from several."""
_STANDARD: dict[type, Any] = copyreg.dispatch_table
Buffers = list[pickle.PickleBuffer]


def pickle_beside(value: object, buffers: Buffers) -> bytes:
    """The pickle of `value`; its large buffers are appended to `buffers`."""
    keep = _collector(buffers)
    if "torch" not in sys.modules:
        return pickle.dumps(value, PROTOCOL, buffer_callback=keep)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL, buffer_callback=keep)
    pickler.dispatch_table = ChainMap(_tensor_table(), _STANDARD)
    pickler.dump(value)
    return file.getvalue()


def cloudpickle_beside(value: object, buffers: Buffers) -> bytes:
    """As `pickle_beside`, for what goes by value."""
    import cloudpickle

    file = io.BytesIO()
    pickler = cloudpickle.Pickler(file, PROTOCOL, buffer_callback=_collector(buffers))
    if "torch" in sys.modules:
        pickler.dispatch_table = ChainMap(_tensor_table(), pickler.dispatch_table)
    pickler.dump(value)
    return file.getvalue()


def _collector(buffers: Buffers) -> Callable[[pickle.PickleBuffer], bool]:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        """True: leave it inside the pickle."""
        if buffer.raw().nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(buffer)
        return False

    return keep


class Blob:
    """Plain bytes among arguments: pickle knows no buffers of them, so they are told to be one."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce__(self) -> tuple[type, tuple[pickle.PickleBuffer]]:
        return (type(self._data), (pickle.PickleBuffer(self._data),))


def as_blob(value: Any) -> Any:  # Any: an argument of the user's
    """Large bytes as a Blob, everything else as it is."""
    kind = type(value)
    if (kind is bytes or kind is bytearray) and len(value) >= OUT_OF_BAND_BYTES:
        return Blob(value)
    return value


# --- frames -------------------------------------------------------------------------------------------------------


def frame(pickled: bytes, buffers: Sequence[pickle.PickleBuffer]) -> bytes:
    """A plain pickle when there is nothing beside it."""
    if not buffers:
        return pickled
    views = [buffer.raw() for buffer in buffers]
    sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    pieces: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, FORMAT, len(views), len(pickled)), sizes, pickled]
    at = _HEAD.size + len(sizes) + len(pickled)
    for view in views:
        gap = -at % _ALIGN
        pieces += (bytes(gap), view)
        at += gap + view.nbytes
    return b"".join(pieces)


def gather(data: bytes | bytearray, piece: bytes) -> bytes | bytearray:
    """`data` with one more piece behind it: bytes stay what they are, several pieces gather in one bytearray.

    It grows in place: what arrives in 256 KiB pieces is copied as it comes, not all at once at the end.
    """
    if not data:
        return piece
    if not piece:
        return data
    grown = data if isinstance(data, bytearray) else bytearray(data)
    grown += piece
    return grown


def is_frame(data: Received) -> bool:
    return data[:1] == b"\0"


def open_frame(data: Received) -> Any:  # Any: the user's value
    """The value; its arrays lie in `data` when that can be written to, else in a copy.

    *Errors*: ServeException for a frame of a newer format, or one that was cut short.
    """
    whole = memoryview(data)
    if whole.readonly:
        whole = memoryview(bytearray(whole))
    if len(whole) < _HEAD.size or whole[:4] != _MAGIC:
        raise ServeException("not a value of a handle call: its first bytes are unknown")
    _, version, count, pickle_size = _HEAD.unpack_from(whole)
    if version != FORMAT:
        raise ServeException(
            f"a value of a handle call has format {version}; this process reads {FORMAT}: run one version of serve-rt "
            "on both sides"
        )
    at = _HEAD.size + 8 * count
    if len(whole) < at + pickle_size:
        raise ServeException(f"a value of a handle call was cut short: {len(whole)} bytes arrived")
    sizes = struct.unpack_from(f"<{count}Q", whole, _HEAD.size)
    pickled = whole[at : at + pickle_size]
    at += pickle_size
    views: list[memoryview] = []
    for size in sizes:
        at += -at % _ALIGN
        views.append(whole[at : at + size])
        at += size
    if at != len(whole):
        raise ServeException(f"a value of a handle call was cut short: {len(whole)} bytes arrived, it has {at}")
    return pickle.loads(pickled, buffers=views)


# --- torch --------------------------------------------------------------------------------------------------------

_tensors: dict[type, Callable[[Any], Any]] = {}


def _tensor_table() -> dict[type, Callable[[Any], Any]]:
    if not _tensors:
        # torch may be half imported, by another thread: then its own pickling does
        kind = getattr(sys.modules["torch"], "Tensor", None)
        if kind is not None:
            _tensors[kind] = _reduce_tensor
    return _tensors


def _reduce_tensor(tensor: Any) -> Any:  # Any: torch is not imported here
    """A plain tensor in main memory as its buffer; every other kind as torch does it.

    Of a view only what it shows travels, not the storage behind it.
    """
    if not _is_plain(tensor):
        return tensor.__reduce_ex__(PROTOCOL)
    import torch

    shown = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return (_tensor, (pickle.PickleBuffer(shown), dtype, tuple(tensor.shape), tensor.requires_grad))


def _is_plain(tensor: Any) -> bool:
    import torch

    return bool(
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.nbytes >= OUT_OF_BAND_BYTES
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not tensor.__dict__
        and not tensor._backward_hooks
    )


def _tensor(buffer: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    return torch.frombuffer(buffer, dtype=getattr(torch, dtype)).reshape(shape).requires_grad_(requires_grad)
