"""Who am I: what user code inside a replica can ask about itself (`serve.get_replica_context`).

Set once by the replica process before the constructor runs; `servable_object` is filled in after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from serve_rt.errors import ServeException
from serve_rt.model.ids import DeploymentKey, ReplicaId, deployment_of


class ReplicaID(str):
    """A replica's full name, `app#deployment#unique`, with the parts that programs ask Ray's for."""

    @property
    def unique_id(self) -> str:
        return self.rpartition("#")[2]

    @property
    def deployment_id(self) -> DeploymentKey:
        return deployment_of(ReplicaId(self))

    def to_full_id_str(self) -> str:
        return str(self)


@dataclass(frozen=True)
class ReplicaRank:
    rank: int = 0
    node_rank: int = 0
    local_rank: int = 0


@dataclass
class ReplicaContext:
    """Not frozen: the replica sets `servable_object` when the constructor has returned."""

    app_name: str
    deployment: str
    replica_tag: str
    """The last part of the replica id."""
    replica_id: ReplicaID
    servable_object: Any = None
    """The user's instance or function; None while the constructor runs. Any: it is of the user's own class."""
    max_ongoing_requests: int = 100
    code_version: str = ""
    node_id: str = ""
    rank: ReplicaRank = ReplicaRank()
    world_size: int = 1
    gang_context: None = None
    replica_metadata: Mapping[str, Any] = field(default_factory=dict)
    """What `record_replica_metadata` gave."""
    incarnation: int = 1
    """The how manieth process of this replica it is."""
    code: str | None = None
    """Digest of the program's code, for what is started from here; None: it is installed."""
    code_root: str = ""
    set_extra_slots: Callable[[int], None] | None = None
    """Lets the replica take so many requests beyond its limit; from any thread."""
    ends_when_abandoned: bool = False
    """Told to go, it does not wait for work whose callers have all gone or cancelled."""


_context: ReplicaContext | None = None


def set_replica_context(context: ReplicaContext | None) -> None:
    global _context
    _context = context


def get_replica_context() -> ReplicaContext:
    """*Errors*: ServeException outside a replica."""
    if _context is None:
        raise ServeException(
            "`serve.get_replica_context()` may only be called from within a deployment: there is no replica here."
        )
    return _context


def find_replica_context() -> ReplicaContext | None:
    """The context, or None outside a replica."""
    return _context


def is_being_made(apps: Iterable[str]) -> bool:
    """A replica of one of these imports its module. Should its last line run the application, it waits for itself."""
    return _context is not None and _context.servable_object is None and _context.app_name in apps


_NO_ACTORS = (
    "there are no deployment actors here: make it a deployment of its own, bind it as an argument, and call its handle."
)


def get_deployment_actor(actor_name: str) -> NoReturn:
    """*Errors*: ValueError always, saying what to use instead."""
    raise ValueError(f"Deployment actor {actor_name!r} is not registered: {_NO_ACTORS}")


def get_deployment_actor_context() -> NoReturn:
    """*Errors*: ServeException always, saying what to use instead."""
    raise ServeException(f"`serve.get_deployment_actor_context()` has no answer: {_NO_ACTORS}")
