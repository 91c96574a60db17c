"""What the gates said, arranged so that a page does not say it twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.record import Record
from rollout.verdict import GateResult, Verdict


@dataclass(frozen=True, slots=True)
class Said:
    """What one gate said, or several with the same words."""

    verdict: str
    gates: tuple[str, ...]
    reason: str


def evidence(results: Sequence[GateResult]) -> list[Said]:
    """Arrange results for reading: the worst first, equal reasons once; beside a doubt the passes are named only."""
    order = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.PASS)
    doubt = any(result.verdict is not Verdict.PASS for result in results)
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for result in sorted(results, key=lambda result: order.index(result.verdict)):
        reason = "" if doubt and result.verdict is Verdict.PASS else result.reason
        name = f"{result.name} (dry run)" if result.dry_run else result.name
        groups.setdefault((result.verdict, reason), []).append(name)
    return [Said(verdict.value, tuple(names), reason) for (verdict, reason), names in groups.items()]


def message(record: Record) -> str:
    """Return a decision's words without what the gates' own lines below it say."""
    words = record.message
    for result in record.verdicts:
        words = words.replace(f"{result.name}: {result.reason}", "")
    return re.sub(r"\s*\([;\s]*\)|[;\s]+$|^[;\s]+|;\s*(?=;)", "", words)
