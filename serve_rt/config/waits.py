"""Shorter waits for tests with real processes: `SERVE_TEST_WAITS=node_lease_s=3,node_grace_s=2`.

A node that is cut off is replaced after lease and grace, twenty seconds; a test that is run at each change cannot wait
for them. The promised figures are measured by the chaos versions, without this. Production never sets it; the agent
warns when set.
"""

from __future__ import annotations

import os
from functools import cache

from serve_rt.errors import ConfigError

VARIABLE = "SERVE_TEST_WAITS"
NAMES = frozenset({"first_contact_s", "node_lease_s", "leader_lease_s", "node_grace_s", "blob_grace_s", "blob_look_s"})


@cache
def _shortened() -> dict[str, float]:
    waits = {}
    for part in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, seconds = part.partition("=")
        try:
            waits[name] = float(seconds)
        except ValueError as error:
            raise ConfigError(f"{VARIABLE}: {part!r} is not name=seconds") from error
    if unknown := waits.keys() - NAMES:
        raise ConfigError(f"{VARIABLE}: unknown {sorted(unknown)}; there are {sorted(NAMES)}")
    return waits


def wait_s(name: str, usual_s: float) -> float:
    """The wait of that name: `usual_s`, unless a test has shortened it for this process."""
    return _shortened().get(name, usual_s)
