"""Counts from a Prometheus server, or anything that speaks its HTTP API (Thanos, Mimir, VictoriaMetrics)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx

from rollout.analysis.counts import Counts, LatencyScale
from rollout.errors import EvidenceMalformed, EvidenceUnavailable
from rollout.evidence.histogram import MESH_LATENCY, MESH_REQUESTS, REQUESTS, SCORES, Sample, read, read_mesh
from rollout.evidence.http import exchange
from rollout.evidence.source import Ledger, Reading, joined

AUTHORIZATION_ENV: Final = "ROLLOUT_PROMETHEUS_AUTHORIZATION"
"""The environment variable that holds the Authorization header, such as `Bearer ...`; unset sends none."""
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESTARTS: Final = "kube_pod_container_status_restarts_total"
_TERMINATED: Final = "kube_pod_container_status_last_terminated_reason"
_SETTLE_SCRAPES: Final = 2
"""The first scrape after a change may have begun before it, or come from a second server that is behind."""
_PASSING: Final = ("timeout", "canceled", "unavailable", "internal")


@dataclass(frozen=True, slots=True)
class Mesh:
    """Which of the mesh's series are the callers' view of a predictor.

    service: the Service that the gateway sends to, with {deployment} and {predictor}, as Seldon names it. It is known
    for requests that never reach a pod too; the workload then is not. selector: `reporter: source` is the gateway's own
    count; the pod's sidecar would not have counted what it never got.
    """

    service: str
    selector: Mapping[str, str] = field(default_factory=lambda: {"reporter": "source"})

    @classmethod
    def of(cls, deployment: str) -> Mesh:
        """Return it for a SeldonDeployment."""
        return cls(service=f"{deployment}-{{predictor}}")


class PrometheusSource:
    """Reads the raw counters of every pod, and does the arithmetic here.

    `increase()` and `rate()` extrapolate to the edges of their window and give fractions of requests; a test on counts
    wants the counts. What is read are the scrapes of the last `lookback_s` with their times: so counters of two servers
    behind one address are not taken for restarts, and nothing counts twice. Windows should be some scrape intervals
    long, or many hold nothing; `lookback_s` should be several. `selector` narrows the series by equality, such as
    {"namespace": "ml", "model": "credit"}. mesh: where callers are counted; None leaves their view out. Restarts and
    kills for want of memory come from kube-state-metrics, where it is scraped.
    """

    def __init__(
        self,
        url: str,
        *,
        selector: Mapping[str, str] | None = None,
        predictor_label: str = "predictor",
        scale: LatencyScale = LatencyScale(),  # noqa: B008 - frozen
        mesh: Mesh | None = None,
        lookback_s: float = 120.0,
        authorization_env: str = AUTHORIZATION_ENV,
        timeout_s: float = 5.0,
    ) -> None:
        for label in (predictor_label, *(selector or {}), *(mesh.selector if mesh else {})):
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is no label name; letters, digits and _ are allowed")
        self.address = url
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._selector = dict(selector or {})
        self._predictor_label = predictor_label
        self._scale = scale
        self._mesh = mesh
        self._lookback = f"[{max(1, round(lookback_s * 1000))}ms]"
        self._timeout_s = timeout_s
        authorization = os.environ.get(authorization_env)
        self._client = httpx.Client(headers={"Authorization": authorization} if authorization else {})
        self._pods = Ledger()
        self._gateways = Ledger()
        self._containers = _Containers()

    def sample(self, predictors: Sequence[str]) -> Reading:
        """Return each predictor's cumulative counts; see `Source`."""
        if not predictors:
            return Reading()
        samples = self._range(self._pods_query(predictors))
        series = read(samples, _process, scale=self._scale, predictor_label=self._predictor_label)
        gateways = []
        if self._mesh:
            services = {self._mesh.service.format(predictor=name): name for name in predictors}
            gateways = read_mesh(
                self._range(self._mesh_query(services, self._mesh.selector)),
                lambda labels: services.get(labels.get("destination_service_name", ""), ""),
                slo_ms=self._scale.slo_ms,
            )
        names = sorted({sample.labels["pod"] for sample in samples if "pod" in sample.labels})
        containers = self._vector(self._containers_query(names)) if names else []
        # All answers are there: from here on nothing fails, so a sample that raised has changed nothing.
        restarts = self._containers.take(containers)
        pods = {
            predictor: {name: _with_containers(name, counts, restarts) for name, counts in processes.items()}
            for predictor, processes in self._pods.take(predictors, series).items()
        }
        arms = joined(pods, self._gateways.take(predictors, gateways))
        return Reading(arms, self._pods.at_s, self._pods.scrapes(), settle=_SETTLE_SCRAPES)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _pods_query(self, predictors: Sequence[str]) -> str:
        matchers = [f'__name__=~"{REQUESTS}|{SCORES}"', _one_of(self._predictor_label, predictors)]
        matchers += [f"{label}={json.dumps(value)}" for label, value in sorted(self._selector.items())]
        return "{" + ",".join(matchers) + "}"

    def _mesh_query(self, services: Mapping[str, str], selector: Mapping[str, str]) -> str:
        matchers = [f'__name__=~"{MESH_REQUESTS}|{MESH_LATENCY}"', _one_of("destination_service_name", list(services))]
        matchers += [f"{label}={json.dumps(value)}" for label, value in sorted(selector.items())]
        if "namespace" in self._selector:
            matchers.append(f"destination_service_namespace={json.dumps(self._selector['namespace'])}")
        return "{" + ",".join(matchers) + "}"

    def _containers_query(self, pods: Sequence[str]) -> str:
        matchers = [f'__name__=~"{_RESTARTS}|{_TERMINATED}"', _one_of("pod", pods)]
        if "namespace" in self._selector:
            matchers.append(f"namespace={json.dumps(self._selector['namespace'])}")
        return "{" + ",".join(matchers) + "}"

    def _range(self, query: str) -> list[Sample]:
        """Return the scrapes of the last seconds, series by series."""
        found = self._ask(query + self._lookback, "matrix")
        return [
            Sample(name, labels, tuple((float(at_s), float(value)) for at_s, value in values))
            for name, labels, values in found
        ]

    def _vector(self, query: str) -> list[Sample]:
        """Return the present values."""
        return [
            Sample(name, labels, ((float(values[0]), float(values[1])),))
            for name, labels, values in self._ask(query, "vector")
        ]

    def _ask(self, query: str, kind: str) -> list[tuple[str, Mapping[str, str], Any]]:
        form = {"query": query, "timeout": f"{self._timeout_s:g}"}
        body = exchange(self._client, "POST", self._url, form=form, timeout_s=self._timeout_s)
        try:
            answer = json.loads(body)
            found = [
                (
                    str(one["metric"]["__name__"]),
                    one["metric"],
                    _numbers(one["values" if kind == "matrix" else "value"]),
                )
                for one in self._result(answer, kind)
            ]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EvidenceMalformed(f"{self._url} answered no {kind}: {body[:200]!r}") from error
        return found

    def _result(self, answer: Any, kind: str) -> Sequence[Any]:
        if answer["status"] != "success":
            said = f"{self._url} answered {answer.get('errorType')}: {answer.get('error')}"
            raise (EvidenceUnavailable if answer.get("errorType") in _PASSING else EvidenceMalformed)(said)
        if answer.get("warnings"):
            # Thanos and Mimir answer with what they have when a store is down: too few counts, and no error.
            raise EvidenceUnavailable(f"{self._url} answered in part only: {'; '.join(answer['warnings'])}")
        if answer["data"]["resultType"] != kind:
            raise EvidenceMalformed(f"{self._url} answered a {answer['data']['resultType']}; a {kind} is wanted")
        result: Sequence[Any] = answer["data"]["result"]
        return result


class _Containers:
    """Restarts and kills of each pod's containers since it was first seen, as kube-state-metrics has them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int] = {}
        self._began = False
        self._gained: dict[str, tuple[int, int]] = {}

    def take(self, samples: Sequence[Sample]) -> Mapping[str, tuple[int, int]]:
        """Enter one reading; return restarts and kills by pod. Counts that step back are those of a server behind."""
        killed = {
            _container(sample.labels)
            for sample in samples
            if sample.name == _TERMINATED and sample.labels.get("reason") == "OOMKilled" and sample.points[-1][1] > 0
        }
        for sample in samples:
            if sample.name != _RESTARTS:
                continue
            container, now = _container(sample.labels), int(sample.points[-1][1])
            then = self._known.get(container, 0 if self._began else now)
            self._known[container] = max(now, then)
            restarts, kills = self._gained.get(container[0], (0, 0))
            more = max(0, now - then)
            self._gained[container[0]] = (restarts + more, kills + (more if container in killed else 0))
        self._began = self._began or bool(samples)
        return self._gained


def _container(labels: Mapping[str, str]) -> tuple[str, str]:
    return f"{labels.get('namespace', '')}/{labels.get('pod', '')}", labels.get("container", "")


def _with_containers(process: str, counts: Counts, containers: Mapping[str, tuple[int, int]]) -> Counts:
    """Lay what Kubernetes knows over what the counters show: the larger number of restarts, and the kills."""
    restarts, kills = containers.get(process, (0, 0))
    return replace(counts, restarts=max(counts.restarts, restarts), oom_kills=kills)


def _one_of(label: str, values: Sequence[str]) -> str:
    # JSON quotes a string as PromQL does; the pattern is anchored by Prometheus itself.
    return f"{label}=~{json.dumps('|'.join(map(re.escape, values)))}"


def _numbers(values: Any) -> Any:
    """Return [time, value], or a list of them, with numbers for the values."""
    if values and isinstance(values[0], list):
        return [(float(at_s), float(value)) for at_s, value in values]
    at_s, value = values
    return float(at_s), float(value)


def _process(labels: Mapping[str, str]) -> str:
    """Name the process of a series: the pod where Kubernetes discovery gives one, else the scraped address.

    A pod found by two jobs (a PodMonitor and annotations, say) may have two addresses; its name shows that it is one.
    """
    if "pod" in labels:
        return f"{labels.get('namespace', '')}/{labels['pod']}"
    return labels.get("instance", "")
