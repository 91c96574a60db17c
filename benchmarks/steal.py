"""Steal time: what a hypervisor gave to other machines while this one had work to do.

Linux counts it in the ticks of /proc/stat (proc_stat(5)). Where it is not counted (no virtual machine, or a hypervisor
that does not tell), the share is 0.
"""

from __future__ import annotations

from pathlib import Path

# A share that a measurement can bear; ten times as much triples a P99.
MOST_STOLEN = 0.02
_STAT = Path("/proc/stat")


class StealTime:
    """Counts from its creation on."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._stolen, self._wanted = self._ticks()

    def share(self) -> float:
        """Return the share of the processor time wanted since then that another machine got, 0 to 1."""
        stolen, wanted = self._ticks()
        return (stolen - self._stolen) / max(1, wanted - self._wanted)

    def _ticks(self) -> tuple[int, int]:
        """Return the ticks that were stolen, and those that were wanted: used or stolen."""
        try:
            head = self._stat.read_text().split("\n", 1)[0]
        except OSError:  # another system
            return 0, 0
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in head.split()[1:9])
        return steal, user + nice + system + irq + softirq + steal
