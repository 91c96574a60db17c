"""A soak test's result as a person reads it, and as a program does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.soak_result import SoakResult


def as_json(result: SoakResult, plot: Path) -> dict[str, Any]:
    """Return what `-o json` prints; faults from and to seconds after the start."""
    return {
        "sent": result.sent,
        "results": dict(result.results),
        "lost": result.lost,
        "growth": result.growth._asdict(),
        "faults": [fault._asdict() for fault in result.faults],
        "complaints": result.complaints,
        "plot": str(plot),
    }


def as_text(result: SoakResult, plot: Path) -> str:
    """Return the lines that say what was sent, what became of it, what failed meanwhile, and what grew."""
    growth = result.growth
    lines = [
        f"sent      {result.sent:,} requests: {_counts(result.results)}",
        f"lost      {result.lost:,}",
        f"faults    {len(result.faults)}: {_counts(Counter(fault.kind for fault in result.faults))}",
        f"growth    {growth.memory_mb:.1f} MB (allowed: {growth.allowed_mb:g}), {growth.files:g} files, "
        f"{growth.tasks:g} tasks for each worker",
        f"plot      {plot}",
        *(f"FAILED    {complaint}" for complaint in result.complaints),
    ]
    return "\n".join(lines)


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counted.most_common()) or "none"
