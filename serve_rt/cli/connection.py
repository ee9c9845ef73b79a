"""The CLI's connection to a running cluster; it never starts one."""

from __future__ import annotations

from pathlib import Path

from serve_rt.api import session as sessions
from serve_rt.api.session import Session
from serve_rt.config.paths import StateDir


def connect(address: str | None, state_dir: Path | None) -> Session:
    """*Errors*: NoClusterError when none runs; UnauthenticatedError for a wrong token."""
    return sessions.current(address, StateDir(state_dir.absolute()) if state_dir is not None else None)
