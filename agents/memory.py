"""What the agent must remember over its own death and while etcd is away, as files in the state dir.

One `Copy` per assignment (`assignments/<replica>.json`): the leader's last word with the port and the state of the
replica. One `HighWater`: how far this node has read, so that neither an old leader nor a store that went back in time
can make it stop anything. Written by `supervisor`, read once at start.
"""

from __future__ import annotations

import logging
import urllib.parse
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve_rt.agents.life_cycle import Record
from serve_rt.config.paths import StateDir, write_atomically
from serve_rt.errors import ConfigError
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment, Rank, ReplicaState
from serve_rt.model.spec import LoggingOptions
from serve_rt.wire import records

log = logging.getLogger(__name__)


MAX_ERROR_CHARS = 8192


@dataclass(frozen=True, slots=True)
class Copy:
    assignment: Assignment
    port: int = 0
    store_incarnation: str = ""
    """The store's life in which the assignment was last read: only that life can withdraw it."""
    revision: int = 0
    """At which it was last read."""
    state: ReplicaState = ReplicaState.BACKOFF
    incarnation: int = 0
    restarts: int = 0
    constructor_failures: int = 0
    message: str = ""
    applied_user_config_json: str | None = None
    """What the running process has been given, at its start or by Reconfigure."""
    applied_max_ongoing: int = 0
    applied_logging: LoggingOptions = field(default_factory=LoggingOptions)
    applied_rank: Rank = field(default_factory=Rank)
    applied_world_size: int = 0
    refused_user_config_json: str | None = None
    """What the running process raised at."""
    config_error: str = ""
    docs_path: str = ""
    """As the running process reported it."""
    schema: int = 1

    def applied(self, assignment: Assignment) -> Copy:
        """The running process has taken what of this can change under it."""
        options = assignment.spec.options
        return replace(
            self,
            applied_user_config_json=options.user_config_json,
            applied_max_ongoing=options.max_ongoing_requests,
            applied_logging=options.logging,
            applied_rank=assignment.rank,
            applied_world_size=assignment.world_size,
            refused_user_config_json=None,
            config_error="",
        )

    def refused(self, assignment: Assignment, error: str) -> Copy:
        """It has taken all of this but for the user_config, at which it raised: it keeps the former one."""
        return replace(
            self.applied(assignment),
            applied_user_config_json=self.applied_user_config_json,
            refused_user_config_json=assignment.spec.options.user_config_json,
            config_error=error[-MAX_ERROR_CHARS:],
        )

    def owes_nothing(self, assignment: Assignment) -> bool:
        """There is nothing to tell the running process: it has taken this, or has said what it thinks of it."""
        config = assignment.spec.options.user_config_json
        if config is not None and config == self.refused_user_config_json:
            return self == self.refused(assignment, self.config_error)
        return self == self.applied(assignment)

    def record(self) -> Record:
        """As before any process of it was found."""
        state = self.state if self.state is ReplicaState.FAILED else ReplicaState.BACKOFF
        return Record(
            replica_id=self.assignment.replica_id,
            state=state,
            incarnation=self.incarnation,
            restarts=self.restarts,
            constructor_failures=self.constructor_failures,
            message=self.message,
            history=("read from disk",),
        )


@dataclass(frozen=True, slots=True)
class HighWater:
    store_incarnation: str = ""
    revision: int = 0
    epoch: int = 0
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A device that a dead process still holds."""

    uuid: str
    reason: str
    pid: int
    alone: bool
    used_before_bytes: int | None
    """None: another agent started that process."""


@dataclass(frozen=True, slots=True)
class Quarantines:
    boot_id: str = ""
    """A device that was held before the machine started anew is free."""
    devices: tuple[Quarantine, ...] = ()
    schema: int = 1


class AgentMemory:
    def __init__(self, state: StateDir) -> None:
        self._quarantines = state.path / "quarantines.json"
        self._folder = state.assignments
        self._high_water = state.path / "high-water.json"

    def load(self) -> dict[ReplicaId, Copy]:
        """All copies; a damaged one is set aside, it must not keep the node from starting."""
        copies: dict[ReplicaId, Copy] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                copy = records.decode(path.read_bytes(), Copy, source=str(path))
            except (ConfigError, OSError) as error:
                log.error("set aside: %s", error, extra={"action": "copy_damaged"})
                path.rename(path.with_suffix(".damaged"))
                continue
            copies[copy.assignment.replica_id] = copy
        return copies

    def save(self, copy: Copy) -> None:
        write_atomically(self._path(copy.assignment.replica_id), records.encode(copy))

    def drop(self, replica: ReplicaId) -> None:
        self._path(replica).unlink(missing_ok=True)

    def load_high_water(self) -> HighWater:
        try:
            return records.decode(self._high_water.read_bytes(), HighWater, source=str(self._high_water))
        except FileNotFoundError:
            return HighWater()
        except (ConfigError, OSError) as error:
            log.error("starting without it: %s", error, extra={"action": "high_water_damaged"})
            return HighWater()

    def save_high_water(self, value: HighWater) -> None:
        write_atomically(self._high_water, records.encode(value))

    def load_quarantines(self) -> Quarantines:
        try:
            return records.decode(self._quarantines.read_bytes(), Quarantines, source=str(self._quarantines))
        except FileNotFoundError:
            return Quarantines()
        except (ConfigError, OSError) as error:
            log.error("starting without them: %s", error, extra={"action": "quarantines_damaged"})
            return Quarantines()

    def save_quarantines(self, value: Quarantines) -> None:
        write_atomically(self._quarantines, records.encode(value))

    def clear(self) -> None:
        """The node has left: nothing of it is to come back. (A device that is held stays so.)"""
        for path in self._folder.glob("*.json"):
            path.unlink(missing_ok=True)
        self._high_water.unlink(missing_ok=True)

    def _path(self, replica: ReplicaId) -> Path:
        return self._folder / f"{urllib.parse.quote(replica, safe='#')}.json"
