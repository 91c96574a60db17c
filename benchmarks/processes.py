"""What the kernel says of running processes (/proc)."""

from __future__ import annotations

import os
from pathlib import Path


def session_members(session: int) -> list[int]:
    """Return the pids of a session: its leader, and what that started."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    members.append(int(entry.name))
            except ProcessLookupError:
                continue
    return members


def resident_kb(pid: int) -> int:
    """Return a process's resident memory in units of 1024 bytes; 0: it is gone, or only starts."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
