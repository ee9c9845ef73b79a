"""Faults that prove that they bit: a fault that does nothing is the commonest error of such suites.

with fault.applied(): ...      apply, verify, and heal at the end
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tests.cluster.etcd_server import EtcdServer
from tests.cluster.processes import ProcessId, eventually


class Fault(Protocol):
    def apply(self) -> None: ...

    def verify(self) -> None:
        """*Errors*: AssertionError when the fault did not bite."""

    def heal(self) -> None: ...


def inject(fault: Fault) -> None:
    fault.apply()
    fault.verify()


@contextlib.contextmanager
def applied(fault: Fault) -> Iterator[None]:
    inject(fault)
    try:
        yield
    finally:
        fault.heal()


@dataclass(frozen=True)
class Kill:
    """kill -9, or another signal that must end the process."""

    process: ProcessId
    signum: int = signal.SIGKILL
    within_s: float = 5.0

    def apply(self) -> None:
        self.process.signal(self.signum)

    def verify(self) -> None:
        eventually(lambda: not self.process.alive(), self.within_s, f"process {self.process.pid} ends by {self.signum}")

    def heal(self) -> None:
        """What is dead stays dead."""


@dataclass(frozen=True)
class Freeze:
    """SIGSTOP: the kernel still answers for it, the process does not."""

    process: ProcessId

    def apply(self) -> None:
        self.process.signal(signal.SIGSTOP)

    def verify(self) -> None:
        eventually(self.process.stopped, 2.0, f"process {self.process.pid} is stopped")

    def heal(self) -> None:
        if self.process.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)


@dataclass(frozen=True)
class EtcdAway:
    etcd: EtcdServer

    def apply(self) -> None:
        self.etcd.stop()

    def verify(self) -> None:
        assert not self.etcd.answers(), "etcd still answers"

    def heal(self) -> None:
        self.etcd.start()


@dataclass
class Together:
    """Several faults at the same moment."""

    faults: list[Fault] = field(default_factory=list)

    def apply(self) -> None:
        for fault in self.faults:
            fault.apply()

    def verify(self) -> None:
        for fault in self.faults:
            fault.verify()

    def heal(self) -> None:
        for fault in self.faults:
            fault.heal()
