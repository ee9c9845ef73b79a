"""Records: model values as JSON text, in etcd, on the control wire, in handle files and snapshots alike.

`etcdctl get --prefix /serve-rt` reads like a status page because of this file. A record carries `schema`; a reader
takes its own and older schemas (new fields have defaults) and refuses newer ones by name.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from serve_rt.errors import ConfigError

T = TypeVar("T")
SCHEMA = 1
_encoder = msgspec.json.Encoder()
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


class _Schema(msgspec.Struct):
    schema: int = SCHEMA


_schema_decoder = msgspec.json.Decoder(_Schema)


def encode(value: object) -> bytes:
    """A model value as compact JSON."""
    return _encoder.encode(value)


def decode(data: bytes | str, kind: type[T], *, source: str = "record") -> T:
    """The value of type `kind` in `data`; unknown fields (of a newer minor version) are ignored.

    *Errors*: ConfigError naming `source` when the text is not such a value or its schema is newer than ours.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        schema = _schema_decoder.decode(data).schema
        if schema > SCHEMA:
            raise ConfigError(
                f"{source} has schema {schema}, this version reads up to {SCHEMA}: upgrade serve-rt on this node"
            )
        value: T = decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{source} is not a valid {kind.__name__}: {error}") from error
    return value
