"""Keeps a rollout's page beside its log while the rollout goes on."""

from __future__ import annotations

from pathlib import Path

import structlog

from rollout.errors import ReportError
from rollout.record import SAMPLE, Record
from rollout.report import write
from rollout.state import RolloutState

log = structlog.get_logger(__name__)


class Page:
    """An audience that writes the page anew whenever something has changed; it must hear after the log does.

    So the page is there, and says how things stand, even if the promoter is killed.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.file = journal.with_suffix(".html")

    def hear(self, record: Record, state: RolloutState) -> None:
        """Write the page, unless the record is one more sample; a page that cannot be written is only logged."""
        if record.event == SAMPLE:
            return
        try:
            write(self._journal, self.file)
        except (ReportError, OSError) as error:
            log.warning("page_lost", file=str(self.file), detail=str(error))
