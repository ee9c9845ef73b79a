"""Every gRPC channel and server of the runtime is built here, so that who may talk to whom is decided in one place.

Today: one secret token per cluster over loopback. Mutual TLS with roles will change this package and no other.
"""

from serve_rt.credentials.channels import (
    ControlWire,
    control_channel,
    control_server,
    simulated_wire,
    stream_channel,
    stream_server,
)
from serve_rt.credentials.token import ClusterToken

__all__ = [
    "ClusterToken",
    "ControlWire",
    "control_channel",
    "control_server",
    "simulated_wire",
    "stream_channel",
    "stream_server",
]
