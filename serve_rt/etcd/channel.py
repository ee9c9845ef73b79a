"""One channel to one etcd endpoint, with the options that were measured to work.

A frozen peer is found by `grpc.http2.ping_timeout_ms` (`keepalive_timeout_ms` alone does nothing below 60 s). etcd
answers pings more often than every 5 s, or without a call, with GOAWAY: hence 10 s and permit_without_calls off.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from serve_rt.errors import ConfigError

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the time one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),  # a page of a listing; bounded by its number of keys
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # we know which calls may be repeated, gRPC does not
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """PEM files. `cert` and `key` prove who we are and go together; `server_name` is for certificates without our
    way of addressing the server in them."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ConfigError("etcd client TLS needs both a certificate and a key: give --etcd-cert and --etcd-key")

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path} for etcd TLS: {error.strerror}") from error


def etcd_channel(endpoint: str, tls: EtcdTls | None) -> grpc.aio.Channel:
    """A channel to `host:port` or `unix:/path`."""
    options = _OPTIONS
    if endpoint.startswith("unix:"):
        options += (("grpc.default_authority", "localhost"),)  # Go refuses the path as an authority
        return grpc.aio.insecure_channel(endpoint, options=options)
    if tls is None:
        return grpc.aio.insecure_channel(endpoint, options=options)
    if tls.server_name:
        options += (("grpc.ssl_target_name_override", tls.server_name),)
    return grpc.aio.secure_channel(endpoint, tls.credentials(), options=options)
