"""Where the cluster is: `SERVE_ADDRESS`, else the address file that this machine's agent keeps while it runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken
from serve_rt.errors import ConfigError, NoClusterError

ADDRESS_VARIABLE = "SERVE_ADDRESS"
TOKEN_VARIABLE = "SERVE_TOKEN_FILE"
"""Path of the cluster's token for drivers on a machine without an agent."""


@dataclass(frozen=True, slots=True)
class AgentAddress:
    address: str
    """host:port of an agent's gRPC server."""
    token_path: Path

    def token(self) -> ClusterToken:
        return ClusterToken.read(self.token_path)


def find_agent(address: str | None = None, state: StateDir | None = None) -> AgentAddress:
    """The agent to talk to; nothing is asked yet, it may be gone.

    *Errors*: NoClusterError when nobody says where an agent is; ConfigError when its token cannot be read.
    """
    state = state or StateDir.default()
    token_path = Path(os.environ.get(TOKEN_VARIABLE) or state.token)
    named = address or os.environ.get(ADDRESS_VARIABLE)
    if named:
        _check(named)
        return AgentAddress(named, token_path)
    try:
        found = state.address.read_text().strip()
    except OSError:
        found = ""
    if not found:
        raise NoClusterError(
            f"There is no Serve instance running here: {state.address} does not exist and {ADDRESS_VARIABLE} is not "
            "set. Start one with `serve run module:app` or `serve-agent`, or name one with --address host:port."
        )
    return AgentAddress(found, token_path)


def _check(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"the address {address!r} is not host:port (an agent's gRPC address, by default port 7300)")
