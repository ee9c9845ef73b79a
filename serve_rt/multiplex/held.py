"""Which models this process holds, over all caches: what its routers on other machines choose by.

Caches tell of each change, from whatever thread they live on; the replica watches and passes it on over its streams.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

MOST_TOLD = 1000
"""Of a cache without a limit, its latest are told: a part has to fit in a frame."""

Watcher = Callable[[tuple[str, ...]], object]


class HeldModels:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_cache: WeakKeyDictionary[object, tuple[str, ...]] = WeakKeyDictionary()
        self._watcher: Watcher | None = None

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` with all ids at each change; from any thread, under the lock: it must only pass them on."""
        with self._lock:
            self._watcher = watcher

    @property
    def watched(self) -> bool:
        """Whether this process is a replica (or plays one, in local testing mode)."""
        return self._watcher is not None

    def tell(self, cache: object, ids: Sequence[str]) -> None:
        """All that `cache` holds now, least recently used first."""
        with self._lock:
            self._by_cache[cache] = tuple(ids[-MOST_TOLD:])
            if self._watcher is not None:  # in the lock: of two changes the later one arrives last
                everything = {name for names in self._by_cache.values() for name in names}
                self._watcher(tuple(sorted(everything)[-MOST_TOLD:]))


held = HeldModels()
"""Of this process."""
