"""Counts from a Prometheus server, or anything that speaks its HTTP API (Thanos, Mimir, VictoriaMetrics)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from rollout.analysis.counts import Counts
from rollout.errors import EvidenceMalformed, EvidenceUnavailable
from rollout.evidence.histogram import REQUESTS, SCORES, Histogram, Sample, read
from rollout.evidence.http import exchange
from rollout.evidence.source import Ledger

AUTHORIZATION_ENV: Final = "ROLLOUT_PROMETHEUS_AUTHORIZATION"
"""The environment variable that holds the Authorization header, such as `Bearer ...`; unset sends none."""
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PASSING: Final = ("timeout", "canceled", "unavailable", "internal")


class PrometheusSource:
    """Reads the raw counters of every pod in one instant query, and does the arithmetic here.

    `increase()` and `rate()` extrapolate to the edges of their window and give fractions of requests; a test on counts
    wants the counts. Windows should be some scrape intervals long, or many hold nothing. `selector` narrows the series
    by equality, such as {"namespace": "ml", "model": "churn"}.
    """

    def __init__(
        self,
        url: str,
        *,
        selector: Mapping[str, str] | None = None,
        predictor_label: str = "predictor",
        authorization_env: str = AUTHORIZATION_ENV,
        timeout_s: float = 5.0,
    ) -> None:
        for label in (predictor_label, *(selector or {})):
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is no label name; letters, digits and _ are allowed")
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._selector = dict(selector or {})
        self._predictor_label = predictor_label
        self._timeout_s = timeout_s
        authorization = os.environ.get(authorization_env)
        self._client = httpx.Client(headers={"Authorization": authorization} if authorization else {})
        self._ledger = Ledger()

    def sample(self, predictors: Sequence[str]) -> Mapping[str, Counts]:
        """Return each predictor's cumulative counts; see `Source`."""
        if not predictors:
            return {}
        body = exchange(
            self._client,
            "POST",
            self._url,
            form={"query": self._query(predictors), "timeout": f"{self._timeout_s:g}"},
            timeout_s=self._timeout_s,
        )
        return self._ledger.take(predictors, self._histograms(body))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _query(self, predictors: Sequence[str]) -> str:
        matchers = [f'__name__=~"{REQUESTS}|{SCORES}"']
        # JSON quotes a string as PromQL does; the pattern is anchored by Prometheus itself.
        matchers.append(f"{self._predictor_label}=~{json.dumps('|'.join(map(re.escape, predictors)))}")
        matchers += [f"{label}={json.dumps(value)}" for label, value in sorted(self._selector.items())]
        return "{" + ",".join(matchers) + "}"

    def _histograms(self, body: bytes) -> list[Histogram]:
        try:
            answer = json.loads(body)
            samples = [
                Sample(series["metric"]["__name__"], series["metric"], float(series["value"][1]))
                for series in self._vector(answer)
            ]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EvidenceMalformed(f"{self._url} answered no vector: {body[:200]!r}") from error
        return read(samples, _process, predictor_label=self._predictor_label)

    def _vector(self, answer: Any) -> Sequence[Any]:
        if answer["status"] != "success":
            said = f"{self._url} answered {answer.get('errorType')}: {answer.get('error')}"
            raise (EvidenceUnavailable if answer.get("errorType") in _PASSING else EvidenceMalformed)(said)
        if answer.get("warnings"):
            # Thanos and Mimir answer with what they have when a store is down: too few counts, and no error.
            raise EvidenceUnavailable(f"{self._url} answered in part only: {'; '.join(answer['warnings'])}")
        if answer["data"]["resultType"] != "vector":
            raise EvidenceMalformed(f"{self._url} answered a {answer['data']['resultType']}; a vector is wanted")
        result: Sequence[Any] = answer["data"]["result"]
        return result


def _process(labels: Mapping[str, str]) -> str:
    """Name the process of a series: the pod where Kubernetes discovery gives one, else the scraped address.

    A pod found by two jobs (a PodMonitor and annotations, say) may have two addresses; its name shows that it is one.
    """
    if "pod" in labels:
        return f"{labels.get('namespace', '')}/{labels['pod']}"
    return labels.get("instance", "")
