"""Which process on which machine: enough to tell later whether it still runs."""

import os
import socket
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process, told apart from every other one that had or will have the same number."""

    host: str  # for people; machines may share a name
    boot: str  # the kernel's boot id, "" where there is none
    space: str  # the PID namespace: a container's numbers mean nothing outside it
    pid: int
    started: str  # the kernel's word for when

    def visible(self) -> bool:
        """Whether this process could see that one: same boot of one machine, same PID namespace."""
        mine = this_process()
        return bool(self.boot) and (self.boot, self.space) == (mine.boot, mine.space)

    def gone(self) -> bool:
        """True only when that is certain; a process of another machine or container is never `gone`."""
        return self.visible() and _started(self.pid) != self.started


def this_process() -> Process:
    return _process(os.getpid())


@lru_cache(maxsize=1)  # by pid: a forked child asks anew
def _process(pid: int) -> Process:
    return Process(
        host=socket.gethostname(), boot=_boot(), space=_space(), pid=pid, started=_started(pid) or ""
    )


def _boot() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else _answer("sysctl", "-n", "kern.bootsessionuuid")


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When process `pid` began, in the kernel's words; None when it is no more, a zombie included."""
    if not Path("/proc/self/stat").exists():
        state, _, started = _answer("ps", "-o", "stat=,lstart=", "-p", str(pid)).partition(" ")
        return started.strip() if started and not state.startswith("Z") else None
    try:
        # the second field is a name in parentheses that may itself hold blanks and parentheses
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[19] if fields[0] not in "ZX" else None  # proc(5): 3 = state, 22 = starttime


def _answer(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
