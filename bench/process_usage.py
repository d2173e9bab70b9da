"""What a process costs, as Linux tells it in /proc: CPU seconds and memory, all threads together."""

import os
from pathlib import Path

__all__ = ["CPU_RESOLUTION_S", "read_cpu_s", "read_peak_mb", "read_resident_mb", "reset_peak"]

CPU_RESOLUTION_S = 1 / os.sysconf("SC_CLK_TCK")


def read_cpu_s(pid: int) -> float:
    """User and system time so far, without that of children."""
    # The name of the program, in parentheses, may itself hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * CPU_RESOLUTION_S


def read_resident_mb(pid: int) -> float:
    """Memory held now."""
    return _read_status_mb(pid, "VmRSS")


def read_peak_mb(pid: int) -> float:
    """The most memory held at once, since the process began or `reset_peak`."""
    return _read_status_mb(pid, "VmHWM")


def reset_peak(pid: int) -> bool:
    """Have the peak start again from what is held now; False if the system forbids it."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _read_status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024 / 1e6
    message = f"/proc/{pid}/status has no {name}"
    raise ValueError(message)
