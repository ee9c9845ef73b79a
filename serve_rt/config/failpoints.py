"""Points at which a test lets this very process end or stop: what a power cut or a pause does at the worst moment.

`SERVE_TEST_FAIL=write.renamed=kill@3` kills the process when it comes to that point for the third time;
`leader.write.assign=stop?/tmp/now` sends it SIGSTOP at the first time that the file is there (and takes the file away,
so that one process alone stops). Production never sets it; the agent warns when set. A point costs one look into an
empty mapping, and none of them is on a request's path.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_rt.errors import ConfigError

VARIABLE = "SERVE_TEST_FAIL"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_PART = re.compile(r"([\w.]+)=(kill|stop)(?:@(\d+)|\?(.+))?")


@dataclass(frozen=True, slots=True)
class Failure:
    signum: int
    at: int = 1
    """Which time that the process comes to the point."""
    trigger: Path | None = None
    """Only when this file is there, whichever time it is."""

    def is_due(self, times: int) -> bool:
        if self.trigger is None:
            return times == self.at
        try:
            self.trigger.unlink()
        except FileNotFoundError:
            return False
        return True


def parse(text: str) -> Mapping[str, Failure]:
    """*Errors*: ConfigError."""
    failures = {}
    for part in filter(None, text.split(",")):
        found = _PART.fullmatch(part)
        if found is None:
            raise ConfigError(f"{VARIABLE}={text!r}: write point=kill, point=kill@3 or point=stop?/a/file")
        point, signal_name, at, trigger = found.groups()
        failures[point] = Failure(_SIGNALS[signal_name], int(at or 1), Path(trigger) if trigger else None)
    return failures


_failures = parse(os.environ.get(VARIABLE, ""))
_times: Counter[str] = Counter()


def reached(point: str) -> None:
    """The process is at `point`."""
    failure = _failures.get(point)
    if failure is None:
        return
    _times[point] += 1
    if failure.is_due(_times[point]):
        os.kill(os.getpid(), failure.signum)
