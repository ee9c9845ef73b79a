"""The leader's waits, in one value: tests shorten them, production does not."""

from __future__ import annotations

from dataclasses import dataclass

from serve_rt.config.protections import Protection, enabled
from serve_rt.config.waits import wait_s
from serve_rt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ControlSettings:
    lease_s: float = 10.0
    """Of the leader key: a dead leader is replaced after at most this."""
    node_grace_s: float = 10.0
    """After a node's registration is gone, before its replicas are replaced."""
    node_given_up_s: float = 600.0
    """After that its records are deleted and its replicas forgotten."""
    constructor_failures_per_replica: int = 3
    """With max_constructor_retry_count the limit of a deployment's failed starts, as in Ray."""
    gather_routes_s: float = 0.05
    adopt_wait_s: float = 1.5
    """How long a new leader waits for the reports of registered agents before it decides anything."""
    resync_s: float = 30.0
    """A full look even when nothing seems to have changed."""
    handover_linger_s: float = 1.0
    """After an application's routes have moved to another ingress: what served before stays for those who have not
    heard of it yet."""
    surge: bool = True
    handover: bool = True
    """Off (a negative control): another ingress takes the place of the old one before it is ready."""

    def __post_init__(self) -> None:
        if self.node_given_up_s <= self.node_grace_s:
            raise ConfigError(
                f"node_given_up_s ({self.node_given_up_s}) must be longer than node_grace_s ({self.node_grace_s})"
            )

    @staticmethod
    def of_process() -> ControlSettings:
        """The defaults, less the protections and waits this process was told by a test to go without."""
        usual = ControlSettings()
        return ControlSettings(
            lease_s=wait_s("leader_lease_s", usual.lease_s),
            node_grace_s=wait_s("node_grace_s", usual.node_grace_s),
            surge=enabled(Protection.SURGE),
            handover=enabled(Protection.HANDOVER),
        )
