"""Every setting of the service, read once from SERVING_* environment variables.

Ports, the model's name and its URI are MLServer's own (MLSERVER_*): the operator injects them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from custom_runtime.errors import StartupError

# The prefix of these variables before 0.2.
_OLD_PREFIX = "CHURN_"
_RENAMED = {"SERVING_MISSING_CUSTOMER": "SERVING_MISSING_KEY"}


class ServingSettings(BaseSettings):
    """What an operator can change without a new image. Each field is SERVING_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="SERVING_", extra="ignore", frozen=True)

    @field_validator("challengers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    def model_post_init(self, context: Any, /) -> None:
        """Refuse variables with the names of earlier versions: a limit or a token must not be ignored silently."""
        renamed = {
            name: f"SERVING_{name.removeprefix(_OLD_PREFIX)}" for name in os.environ if name.startswith(_OLD_PREFIX)
        } | {name: new for name, new in _RENAMED.items() if name in os.environ}
        if renamed:
            words = ", ".join(f"{name} is now {new}" for name, new in sorted(renamed.items()))
            raise StartupError(f"environment variables of an earlier version are set: {words}; rename or unset them")

    contract: str = Field(
        "custom_runtime.contract", description="The contract: a module, or the path of a .py file (see `active`)."
    )
    bundle: Path = Field(Path("var/bundle"), description="The bundle directory, where MLSERVER_MODEL_URI names none.")
    feature_store: str = Field(
        "sqlite:///var/features.db",
        description="sqlite:///relative.db, sqlite:////absolute.db, redis://, rediss:// or redis+cluster:// (rediss+cluster://).",
    )
    missing_key: Literal["error", "default"] = Field(
        "error", description="A key without a row: 404, or a score from the training medians and modes."
    )
    store_failure: Literal["error", "default"] = Field(
        "error", description="Feature store down or slow: 503, or a score from the training medians and modes."
    )
    store_timeout_ms: float = Field(25.0, gt=0, description="The longest wait for one fetch of a batch.")
    max_feature_age_s: float | None = Field(None, gt=0, description="Rows older than this are counted as stale.")
    deadline_ms: float = Field(500.0, gt=0, description="The longest time from a request's arrival to its answer.")
    batch_deadline_ms: float = Field(
        10_000.0, gt=0, description="The same for a batch of more than `offload_rows` rows, its own work included."
    )
    max_inflight: int = Field(256, ge=1, description="Requests in flight per process; one more gets a 503.")
    max_queue_ms: float = Field(
        30.0, gt=0, description="A request that would wait longer than this for its batch gets a 503."
    )
    max_predict_bytes: int = Field(65_536, ge=256, description="The largest body of /predict (one row).")
    # A message of 8 MB took up to 180 MB of memory: 8 MiB are safe in a pod of 512 MiB, and hold 100,000 keys.
    max_body_bytes: int = Field(8_388_608, ge=1_024, description="The largest V2 body or gRPC message.")
    max_bodies_bytes: int = Field(
        33_554_432, ge=1_024, description="REST bodies held at once, all together; one more is shed with 503."
    )
    max_request_line_bytes: int = Field(8_192, ge=256, description="The longest path and query over REST.")
    max_header_bytes: int = Field(16_384, ge=1_024, description="The largest head of a REST request.")
    max_headers: int = Field(100, ge=8, description="The most headers of a REST request.")
    max_connections: int = Field(4_096, ge=1, description="REST connections per process; one more gets a 503.")
    max_rows: int = Field(100_000, ge=1, description="The largest V2 batch.")
    coalesce_rows: int = Field(128, ge=1, description="The most rows that waiting requests are joined into.")
    offload_rows: int = Field(64, ge=1, description="V2 batches with more rows than this go to the worker thread.")
    scorer: Literal["auto", "forest", "onnx", "xgboost"] = Field(
        "auto",
        description="What scores: bit vectors of trees, ONNX Runtime, or XGBoost itself (bundles that have its file); "
        "auto: bit vectors where the import found them faster, otherwise ONNX Runtime.",
    )
    explanations: bool = Field(
        True, description="Explain predictions that ask for it; off: such a request gets a 422, and nothing is loaded."
    )
    max_explanations: int = Field(
        8, ge=1, description="Explained requests in flight per process, on one thread; one more gets a 503."
    )
    max_explained_rows: int = Field(1_000, ge=1, description="The largest V2 batch that is explained.")
    fast_routes: bool = Field(True, description="Answer /predict and V2 infer before FastAPI; off: MLServer's routes.")
    access_log: bool = Field(
        False, description="Log one JSON line for each request over REST and gRPC, health probes left out."
    )
    docs: bool = Field(True, description="Serve /docs and /openapi.json.")
    admin_api: bool = Field(False, description="Open the V2 model repository API (load, unload, index).")
    token: SecretStr | None = Field(
        None, description="A bearer token that REST and gRPC require, except for health; none: no token is required."
    )
    token_file: Path | None = Field(None, description="The same from a file: one token per line, each is accepted.")
    tls_cert: Path | None = Field(None, description="PEM certificate chain of REST and gRPC; none: no TLS.")
    tls_key: Path | None = Field(None, description="PEM private key of that certificate, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM CA: clients must present a certificate that it signed (mutual TLS)."
    )
    drain_delay_s: float = Field(
        3.0, ge=0, description="After SIGTERM: not ready, but serving, for this long; then in-flight requests finish."
    )
    grpc_engine: Literal["http2", "grpcio"] = Field(
        "http2", description="What carries gRPC: our own HTTP/2 engine, or grpcio's."
    )
    grpc_max_waiting: int = Field(
        128,
        ge=1,
        description="Engine grpcio only: calls that wait for the event loop; gRPC cancels one more. A client's burst "
        "must fit in; where the core is overloaded, 16 keep the wait below 50 ms.",
    )
    grpc_connection_age_s: float = Field(
        10.0,
        ge=0,
        description="Engine grpcio only: a connection is asked to reconnect (GOAWAY) after this long, so that none "
        "loses a call when the server stops; 0: never.",
    )
    records: str | None = Field(
        None,
        description="Where prediction records go: file:///directory (Parquet), https://sink or http://sink "
        "(CloudEvents); none: nothing is recorded.",
    )
    record_features: bool = Field(False, description="Record the feature row as it was scored.")
    record_key: Literal["hashed", "plain", "omitted"] = Field(
        "hashed", description="The key in records: its HMAC with `record_salt`, as it is, or left out."
    )
    record_salt: SecretStr | None = Field(
        None, min_length=16, description="What keys are hashed with; the same in all pods, or records do not join."
    )
    record_sample: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The share of keys whose predictions are recorded; a key is always in or always out. Without a key "
        "in the contract: of requests, by their id.",
    )
    record_queue_rows: int = Field(
        32_768, ge=1_024, description="Rows that wait to be recorded; what does not fit is dropped and counted."
    )
    record_flush_s: float = Field(1.0, gt=0, description="A crash loses at most this much time of records.")
    record_segment_bytes: int = Field(
        16_777_216, ge=65_536, description="An open segment of this size becomes a Parquet file."
    )
    record_segment_age_s: float = Field(300.0, gt=0, description="An open segment of this age becomes a Parquet file.")
    record_max_bytes: int = Field(
        1_073_741_824, ge=1_048_576, description="What the directory may hold; the oldest files are deleted first."
    )
    record_retention_days: float = Field(30.0, gt=0, description="Files older than this are deleted.")
    record_events: Literal["batch", "binary"] = Field(
        "batch",
        description="CloudEvents: many in one request (application/cloudevents-batch+json), or each in a request of "
        "its own with ce-* headers, as Seldon's request logger takes them.",
    )
    record_token: SecretStr | None = Field(None, description="A bearer token for the sink of CloudEvents.")
    record_spool: Path = Field(
        Path("/tmp/serving-records"),  # noqa: S108
        description="Where CloudEvents wait for a sink that does not answer.",
    )
    record_spool_bytes: int = Field(
        33_554_432, ge=65_536, description="What may wait there; more is dropped and counted."
    )
    challengers: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Bundles of the same contract, separated by commas, that score the same rows after the answer; "
        "their scores are recorded.",
    )
    predictor: str = Field(
        "local",
        validation_alias=AliasChoices("SERVING_PREDICTOR", "PREDICTOR_ID"),
        description="The metrics' predictor label; the operator injects PREDICTOR_ID.",
    )


PREFIXES = {"ServingSettings": "SERVING_", "Settings": "MLSERVER_"}
"""Of the environment variables of our settings and of MLServer's, by the class that reads them."""


def one_line(error: Exception) -> str:
    """Return an error of the start as one line: which setting has which value, and what is allowed. Shows no secret."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    found = []
    for problem in error.errors():
        said = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
        found.append(f"{_variable(error.title, problem['loc'])} is {_shown(problem)}; {said}")
    return "; ".join(found)


def _variable(owner: str, place: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, place))
    if owner not in PREFIXES:
        return f"{name} of {owner}"
    return name if name.isupper() else PREFIXES[owner] + name.upper()


def _shown(problem: Any) -> str:
    field = ServingSettings.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    return "set" if field is not None and "SecretStr" in str(field.annotation) else repr(problem["input"])
