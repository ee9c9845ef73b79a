"""Application records, replaced by compare-and-swap under the leader's fence: all of one request, or none.

Called by `api_server`. One transaction holds every record of the request, so a leader that dies over it leaves no half
of a file behind, and whoever asks the next leader with the same deploy ids gets the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serve_rt.errors import ConfigError, ConflictError
from serve_rt.etcd.contract import EtcdStore
from serve_rt.etcd.election import Leadership
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.values import Compare, Put, absent, modified_at
from serve_rt.model.cluster import Versioned
from serve_rt.model.ids import AppName
from serve_rt.model.spec import ApplicationSpec
from serve_rt.store.mirror import Mirror
from serve_rt.wire.records import decode, encode

ATTEMPTS = 5
SHOWN_LIMIT_S = 5.0
MAX_TOGETHER = 120
"""Below etcd's 128 operations in a transaction."""
MAX_TOGETHER_BYTES = 1 << 20
"""Below etcd's 1.5 MiB a request."""

Change = Callable[[Versioned[ApplicationSpec] | None], ApplicationSpec | None]
"""The record as it is → as it shall be; None: it stays."""


class Swapping:
    def __init__(self, store: EtcdStore, keys: Keys, mirror: Mirror) -> None:
        self._store, self._keys, self._mirror = store, keys, mirror

    async def swap(self, leadership: Callable[[], Leadership], changes: Mapping[AppName, Change]) -> int:
        """Make all changes at one moment; the revision of the newest record that then stands.

        *Errors*: ConfigError when they are too many or too long for one transaction; ConflictError when others change
        them all the time; what a change raises, and `leadership` when we do not lead.
        """
        if len(changes) > MAX_TOGETHER:
            raise ConfigError(
                f"{len(changes)} applications in one request; at most {MAX_TOGETHER} can be changed at one moment: "
                "deploy them in several files"
            )
        for _ in range(ATTEMPTS):
            puts, compares, stands = await self._prepared(changes)
            if not puts:
                return stands
            written = await leadership().write(puts, compares)
            if written.succeeded:
                await self.shown(written.revision)
                return written.revision
        names = ", ".join(repr(name) for name in sorted(changes))
        raise ConflictError(f"application {names} is being changed by others all the time; try again")

    async def _prepared(self, changes: Mapping[AppName, Change]) -> tuple[list[Put], list[Compare], int]:
        """What to write, on what condition, and how new the records are that stay."""
        puts: list[Put] = []
        compares: list[Compare] = []
        stands = 0
        for app, change in changes.items():
            key = self._keys.app(app)
            found = await self._store.get(key)
            now = None
            if found is not None:
                now = Versioned(decode(found.value, ApplicationSpec, source=key), found.mod_revision)
            wanted = change(now)
            if wanted is not None:
                puts.append(Put(key, encode(wanted)))
                compares.append(modified_at(key, now.mod_revision) if now is not None else absent(key))
            stands = max(stands, now.mod_revision if now is not None else self._mirror.cluster.revision)
        size = sum(len(put.value) for put in puts)
        if size > MAX_TOGETHER_BYTES:
            raise ConfigError(
                f"the applications of this request take {size} bytes together, limit {MAX_TOGETHER_BYTES}: "
                "deploy them in several files"
            )
        return puts, compares, stands

    async def shown(self, revision: int) -> None:
        """The next change must see this one, or it could take the same prefix. *Errors*: DeadlineExceededError."""
        await self._mirror.wait_for(lambda cluster: cluster.revision >= revision, SHOWN_LIMIT_S)
