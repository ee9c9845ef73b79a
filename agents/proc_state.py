"""What /proc says about one process: is it stopped, does it use CPU?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcSample:
    state: str
    """R, S, D, T, Z, …; "" when there is no such process."""
    cpu_ticks: int
    start_ticks: int


NO_PROCESS = ProcSample("", 0, 0)


def sample(pid: int) -> ProcSample:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return NO_PROCESS
    fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold spaces and parentheses
    return ProcSample(state=fields[0], cpu_ticks=int(fields[11]) + int(fields[12]), start_ticks=int(fields[19]))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
