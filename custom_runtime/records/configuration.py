"""From the settings to a running recorder: the sink that a URL names, the challengers, and what they must agree on.

pyarrow takes a second and 70 MB: it is imported only where records are on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from custom_runtime.active import CONTRACT
from custom_runtime.errors import RecordsError
from custom_runtime.metrics import ServingMetrics
from custom_runtime.prediction.challengers import open_challengers
from custom_runtime.settings import ServingSettings

if TYPE_CHECKING:
    from custom_runtime.records.recorder import Recorder, Sink

_ALLOWED = "allowed: file:///directory, https://host/path or http://host/path"


def open_recorder(settings: ServingSettings, metrics: ServingMetrics, *, model: str, version: str) -> Recorder | None:
    """Return the recorder that the settings ask for, started; None: nothing is recorded. Raises StartupError."""
    if settings.records is None:
        if settings.challengers:
            raise RecordsError("SERVING_CHALLENGERS is set, and SERVING_RECORDS is not: their scores would be lost")
        return None
    from custom_runtime.records.record import RecordBuilder, RecordOptions
    from custom_runtime.records.recorder import Recorder

    salt = settings.record_salt.get_secret_value() if settings.record_salt else ""
    if settings.record_key == "hashed" and CONTRACT.key is not None and not salt:
        raise RecordsError(
            "records hash the key, and SERVING_RECORD_SALT is not set; set it from a secret, the same in all pods, "
            "or set SERVING_RECORD_KEY to plain or omitted"
        )
    options = RecordOptions(
        model=model,
        predictor=settings.predictor,
        version=version,
        key_mode=settings.record_key,
        salt=salt,
        share=settings.record_sample,
        with_features=settings.record_features,
    )
    challengers = open_challengers(settings.challengers, metrics, champion=version)
    sink = _open_sink(settings, metrics, model)
    recorder = Recorder(
        sink, RecordBuilder(options), metrics, max_rows=settings.record_queue_rows, challengers=challengers
    )
    recorder.start()
    return recorder


def _open_sink(settings: ServingSettings, metrics: ServingMetrics, model: str) -> Sink:
    """Open the sink. An adapter is imported only when it is used."""
    url = settings.records or ""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        from custom_runtime.records.segments import SegmentLimits, SegmentSink

        if settings.record_max_bytes < 2 * settings.record_segment_bytes:
            raise RecordsError(
                f"SERVING_RECORD_MAX_BYTES is {settings.record_max_bytes}; allowed: at least two segments "
                f"(SERVING_RECORD_SEGMENT_BYTES is {settings.record_segment_bytes})"
            )
        limits = SegmentLimits(
            flush_s=settings.record_flush_s,
            segment_bytes=settings.record_segment_bytes,
            segment_age_s=settings.record_segment_age_s,
            max_bytes=settings.record_max_bytes,
            retention_s=settings.record_retention_days * 86_400,
        )
        return SegmentSink(Path(unquote(parts.path)), limits, metrics)
    if parts.scheme in ("https", "http") and parts.hostname:
        from custom_runtime.records.events import EventSink, EventSource
        from custom_runtime.records.spool import Spool

        return EventSink(
            url,
            EventSource.from_environment(model, settings.predictor),
            Spool(settings.record_spool, max_bytes=settings.record_spool_bytes),
            metrics,
            is_batched=settings.record_events == "batch",
            token=settings.record_token.get_secret_value() if settings.record_token else "",
            flush_s=settings.record_flush_s,
        )
    raise RecordsError(f"SERVING_RECORDS is {url.partition('?')[0]!r}; {_ALLOWED}")
