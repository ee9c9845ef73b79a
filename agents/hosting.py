"""The embedded etcd of a cluster that was not given one: for one machine, and for development.

A child like any other (`children`): adopted when it lives, restarted when it dies, stopped last when the node leaves.
Agents of the same machine and user join by its socket: `--etcd unix:<state-dir>/etcd/…`.
"""

from __future__ import annotations

import logging
import shutil

from serve_rt.agents.children import Children
from serve_rt.agents.launcher.records import Handle
from serve_rt.agents.settings import Settings
from serve_rt.agents.specs import ETCD_NAME, etcd_spec
from serve_rt.config.paths import StateDir
from serve_rt.etcd.embedded import embedded_command, find_etcd, wait_ready
from serve_rt.model.starts import EtcdAddress

log = logging.getLogger(__name__)
SERVES_WITHIN_S = 15.0


async def host_etcd(settings: Settings, children: Children, found: tuple[Handle, ...]) -> EtcdAddress:
    """Running and serving on return. *Errors*: EtcdTooOldError, ConfigError, EtcdUnavailableError."""
    binary = find_etcd()
    if binary.warning:
        log.warning("%s", binary.warning, extra={"action": "etcd_version"})
    if settings.etcd_listen:
        log.warning(
            "the embedded etcd listens on %s without TLS: whoever reaches it can deploy",
            settings.etcd_listen,
            extra={"action": "etcd_open"},
        )
    lives = any(handle.name == ETCD_NAME and handle.exited is None for handle in found)
    if settings.owned and not lives:
        forget_data(settings)
    command = embedded_command(binary, settings.state.etcd, listen_tcp=settings.etcd_listen, fsync=not settings.owned)
    await children.add(etcd_spec(settings, command)).ensure(found)
    await wait_ready(command.endpoint, SERVES_WITHIN_S)
    return EtcdAddress((command.endpoint,))


def remove_sockets(state: StateDir) -> None:
    """A killed etcd leaves its sockets behind."""
    for path in state.etcd.iterdir():
        if path.is_socket():
            path.unlink(missing_ok=True)


def forget_data(settings: Settings) -> None:
    """A cluster that belongs to a driver ends with it: its applications must not come back with the next one."""
    shutil.rmtree(settings.state.etcd / "data", ignore_errors=True)
