"""This process's connection to a cluster: found, joined or started, once; shared by everything in serve_rt.api.

Started here, the cluster belongs to this process and goes with it; found, it is left alone by `serve.shutdown`'s end.
Inside a replica there is a session too, to its own node's agent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from serve_rt.api import own_cluster
from serve_rt.api.client import AgentClient, Identity
from serve_rt.api.own_cluster import OwnCluster, somebody_listens
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken
from serve_rt.errors import NoClusterError, ServeException
from serve_rt.handle.address import find_agent
from serve_rt.handle.driver_loop import driver_loop
from serve_rt.handle.runtime import HandleRuntime, connect_driver, find_runtime, install

T = TypeVar("T")


@dataclass(slots=True)
class Session:
    client: AgentClient
    identity: Identity
    own: OwnCluster | None = None
    """The cluster that this process started."""
    handles: HandleRuntime | None = None
    """What this process's handles go through; None inside a replica, which has its own."""

    @property
    def may_live(self) -> bool:
        """False when the cluster is ours and its agent has ended."""
        return self.own is None or self.own.alive

    def run(self, coro: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Do something on the driver's loop and wait for it here."""
        return driver_loop().run(coro, timeout_s)


_lock = threading.RLock()
_current: Session | None = None


def current(address: str | None = None, state: StateDir | None = None) -> Session:
    """The session, connected now if there is none.

    *Errors*: NoClusterError when no cluster is to be found.
    """
    global _current
    with _lock:
        if _current is None or _is_dead(_current):
            _forget()
            own = own_cluster.starting
            if own is not None and own.alive and address is None:
                return adopt_own(own, state or StateDir.default())
            _current = _join(address, state)
        return _current


def find(address: str | None = None, state: StateDir | None = None) -> Session | None:
    """The session, or None when no cluster runs."""
    try:
        return current(address, state)
    except NoClusterError:
        return None


def current_or_new(
    address: str | None = None,
    state: StateDir | None = None,
    flags: Sequence[str] = (),
) -> tuple[Session, bool]:
    """The session; without a cluster one is started with `flags`. True when it was started now."""
    global _current
    with _lock:
        session = find(address, state)
        if session is not None:
            return session, False
        if address or os.environ.get("SERVE_ADDRESS"):
            raise NoClusterError(f"no agent answers at {address or os.environ['SERVE_ADDRESS']}")
        state = state or StateDir.default()
        _current = adopt_own(OwnCluster.start(state, flags), state)
        return _current, True


def adopt_own(own: OwnCluster, state: StateDir) -> Session:
    """Wait for the cluster we started and make it the session.

    *Errors*: ClusterStartError with the agent's words; what was started is stopped.
    """
    global _current
    with _lock:
        if _current is not None and _current.own is own:
            return _current
        try:
            ready = own.wait_ready()
            _current = _connect(ready.address, ClusterToken.read(state.token))
        except BaseException:
            own.stop()
            raise
        _current.own = own
        return _current


def _join(address: str | None, state: StateDir | None) -> Session:
    found = find_agent(address, state)
    if not somebody_listens(found.address):
        raise NoClusterError(
            f"There is no Serve instance running: nothing listens at {found.address}. Start one with "
            "`serve run module:app` or `serve-agent`."
        )
    return _connect(found.address, found.token())


def _connect(address: str, token: ClusterToken) -> Session:
    async def connect() -> tuple[AgentClient, Identity]:
        client = AgentClient(address, token)
        try:
            return client, await client.identity()
        except BaseException:
            await client.close()
            raise

    client, identity = driver_loop().run(connect())
    if _inside_replica():
        return Session(client, identity)
    connect_driver(address, token, identity.cluster)
    return Session(client, identity, handles=find_runtime())


def point_handles(session: Session) -> None:
    """Let handles lead to the cluster again after a run in local testing mode, which took them over."""
    if session.handles is not None and find_runtime() not in (None, session.handles):
        install(session.handles)


def _inside_replica() -> bool:
    from serve_rt.api.replica_context import find_replica_context

    return find_replica_context() is not None


def _is_dead(session: Session) -> bool:
    return (session.own is not None and not session.own.alive) or not somebody_listens(session.client.address)


def close() -> None:
    """End the session: the handles' streams, the connection, and the cluster if it is ours."""
    global _current
    with _lock:
        session, _current = _current, None
        if session is None:
            return
        _close_connection(session)
        if session.own is not None:
            session.own.stop()


def _forget() -> None:
    """As `close` for a cluster that is gone."""
    global _current
    session, _current = _current, None
    if session is not None:
        _close_connection(session)
        if session.own is not None:
            session.own.stop()


def _close_connection(session: Session) -> None:
    async def end() -> None:
        runtime = find_runtime()
        if runtime is not None and not _inside_replica():
            install(None)
            await runtime.close()
        await session.client.close()

    try:
        driver_loop().run(end(), 5.0)
    except (TimeoutError, ServeException, asyncio.CancelledError):  # it is gone either way
        pass


def _after_fork_in_child() -> None:
    global _lock, _current
    _lock = threading.RLock()
    _current = None  # the parent's cluster stays the parent's; the child finds it by its address


os.register_at_fork(after_in_child=_after_fork_in_child)


def show_logs() -> None:
    """When the program has set up no logging: show what serve_rt.api tells, and warnings of the rest."""
    logger = logging.getLogger("serve_rt")
    if logging.getLogger().handlers or logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s serve -- %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logging.getLogger("serve_rt.api").setLevel(logging.INFO)
