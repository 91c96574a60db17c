"""Who is let in: bearer tokens, TLS, mutual TLS, and the model repository API; and what never reaches a log."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from local_seldon.ports import free_ports
from tests.support.certificates import Authority
from tests.support.programs import GUARD_S, ROOT
from tests.support.serving import Server, World, assert_refuses_to_start, serving, wait_until_ready

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OLD, NEW = "old-token-0123456789", "new-token-9876543210"
BODY = {"customer_id": 42}
INFER = {"inputs": [{"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}]}
LOCKED = [
    ("POST", "/predict", BODY),
    ("POST", "/v2/models/churn/infer", INFER),
    ("POST", "/v2/models/churn/infer", INFER | {"parameters": {}}),
    ("GET", "/v2/models/churn", None),
    ("GET", "/v2", None),
    ("GET", "/docs", None),
    ("GET", "/openapi.json", None),
    ("GET", "/nope", None),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/models/churn/ready/../infer", INFER),
    ("POST", "/v2//health/live", {}),
]
HEALTH = ["/v2/health/live", "/v2/health/ready", "/v2/models/churn/ready", "/v2/models/churn/versions/1/ready"]


def to_pb() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="churn")
    request.inputs.add(name="customer_id", datatype="INT64", shape=[1]).contents.int64_contents.append(42)
    return request


@pytest.fixture(scope="module")
def guarded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens"
    tokens.write_text(f"{OLD}\n\n{NEW}\n")
    with serving(world.environment | {"SERVING_TOKEN_FILE": str(tokens)}, folder / "log") as running:
        yield running


def test_rest_wants_a_token_everywhere_but_for_health(guarded: Server) -> None:
    counted = guarded.samples("serving_unauthorized_total", protocol="rest")
    with httpx.Client(base_url=guarded.rest) as client:
        for method, path, body in LOCKED:
            for header in (None, "", "Bearer", f"Bearer {OLD}x", f"Bearer {OLD[:-1]}", f"Basic {OLD}", OLD):
                refused = client.request(
                    method, path, json=body, headers={} if header is None else {"Authorization": header}
                )
                assert refused.status_code == 401, (path, header)
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.json()["code"] == "unauthorized"
                assert OLD[:8] not in refused.text
        for token in (OLD, NEW):
            bearer = {"Authorization": f"bearer {token}"}
            assert client.post("/predict", json=BODY, headers=bearer).status_code == 200
            assert client.post("/v2/models/churn/infer", json=INFER, headers=bearer).status_code == 200
            assert client.get("/docs", headers=bearer).status_code == 200
        assert [client.get(path).status_code for path in HEALTH] == [200] * 4
    assert guarded.samples("serving_unauthorized_total", protocol="rest") == counted + 7 * len(LOCKED)


def test_grpc_wants_a_token_everywhere_but_for_health(guarded: Server) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        second = channel.unary_unary("/inference.model_repository.ModelRepositoryService/RepositoryIndex")
        locked = [
            lambda sent: stub.ModelInfer(to_pb(), timeout=GUARD_S, metadata=sent),
            lambda sent: stub.ModelMetadata(pb.ModelMetadataRequest(name="churn"), timeout=GUARD_S, metadata=sent),
            lambda sent: stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=GUARD_S, metadata=sent),
            lambda sent: stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=GUARD_S, metadata=sent),
            lambda sent: second(b"", timeout=GUARD_S, metadata=sent),
            lambda sent: list(stream(iter([to_pb().SerializeToString()]), timeout=GUARD_S, metadata=sent)),
        ]
        counted = guarded.samples("serving_unauthorized_total", protocol="grpc")
        for call in locked:
            for sent in ((), (("authorization", "Bearer wrong"),), (("authorization", OLD),)):
                with pytest.raises(grpc.RpcError) as caught:
                    call(sent)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert dict(caught.value.trailing_metadata())["error-code"] == "unauthorized"
        assert guarded.samples("serving_unauthorized_total", protocol="grpc") == counted + 3 * len(locked)
        for token in (OLD, NEW):
            bearer = (("authorization", f"Bearer {token}"),)
            assert locked[0](bearer).outputs[0].contents.fp64_contents
            assert len(locked[5](bearer)) == 1
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=GUARD_S).live
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=GUARD_S).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="churn"), timeout=GUARD_S).ready


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SERVING_TOKEN": "short"}, r"SERVING_TOKEN: token 1 is not allowed; allowed: 16 or more"),
        ({"SERVING_TOKEN_FILE": "/nowhere/token"}, r"SERVING_TOKEN_FILE /nowhere/token cannot be read: No such file"),
        ({"SERVING_TOKEN_FILE": "/dev/null"}, r"SERVING_TOKEN_FILE /dev/null has no token"),
        ({"SERVING_TOKEN": OLD, "SERVING_TOKEN_FILE": "/dev/null"}, r"both set"),
        ({"SERVING_TLS_CERT": "{server}.pem"}, r"needs both SERVING_TLS_CERT and SERVING_TLS_KEY"),
        ({"SERVING_TLS_CERT": "/nowhere.pem", "SERVING_TLS_KEY": "{server}.key"}, r"/nowhere.pem cannot be read"),
        (
            {"SERVING_TLS_CERT": "{server}.pem", "SERVING_TLS_KEY": "{other}.key"},
            r"do not match \(KEY_VALUES_MISMATCH\)",
        ),
        (
            {
                "SERVING_TLS_CERT": "{server}.pem",
                "SERVING_TLS_KEY": "{server}.key",
                "SERVING_TLS_CLIENT_CA": "/dev/null",
            },
            r"SERVING_TLS_CLIENT_CA /dev/null is not a PEM",
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_lock_that_cannot_work_ends_the_start_with_one_line(
    world: World, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    authority = Authority(tmp_path)
    names = {name: str(authority.issue(name).cert).removesuffix(".pem") for name in ("server", "other")}
    assert_refuses_to_start(
        world.environment | {key: value.format(**names) for key, value in settings.items()}, message
    )


@contextmanager
def over_tls(world: World, folder: Path, authority: Authority, *, mutual: bool) -> Iterator[Server]:
    pair = authority.issue("server")
    settings = {"SERVING_TLS_CERT": str(pair.cert), "SERVING_TLS_KEY": str(pair.key)}
    if mutual:
        settings["SERVING_TLS_CLIENT_CA"] = str(authority.pair.cert)
    with serving(world.environment | settings, folder / "log", ready=False) as server:
        wait_for_line(server, "try:")
        assert is_healthy(server, settings)
        yield server


def wait_for_line(server: Server, line: str) -> None:
    deadline = time.monotonic() + GUARD_S
    while line not in server.log.read_text():
        assert time.monotonic() < deadline, server.log.read_text()
        assert server.process.poll() is None, server.log.read_text()
        time.sleep(0.05)


def is_healthy(server: Server, settings: dict[str, str]) -> bool:
    """What the image's HEALTHCHECK says."""
    port = server.rest.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "custom_runtime.server.health"],
        cwd=ROOT, env=os.environ | settings | {"MLSERVER_HTTP_PORT": port}, check=False, timeout=GUARD_S,
    )  # fmt: skip
    return done.returncode == 0


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.pair.cert))


def test_tls_is_spoken_at_both_doors_and_nothing_else(world: World, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with over_tls(world, tmp_path, authority, mutual=False) as server:
        rest = server.rest.replace("http", "https")
        assert rest in server.log.read_text()
        with httpx.Client(base_url=rest, verify=trusting(authority)) as client:
            assert client.post("/predict", json=BODY).status_code == 200
            assert client.post("/v2/models/churn/infer", json=INFER).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{rest}/v2/health/live")  # the system's authorities know nothing of ours
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.rest}/v2/health/live")
        trusted = grpc.ssl_channel_credentials(authority.pair.cert.read_bytes())
        with grpc.secure_channel(server.grpc, trusted) as channel:
            assert GRPCInferenceServiceStub(channel).ModelInfer(to_pb(), timeout=GUARD_S).model_name == "churn"
        with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError):
            GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=GUARD_S)


def test_mutual_tls_lets_in_only_who_has_a_certificate_of_the_authority(world: World, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("client")
    (tmp_path / "stranger").mkdir()
    strangers = Authority(tmp_path / "stranger").issue("client")
    with over_tls(world, tmp_path, authority, mutual=True) as server:
        rest = server.rest.replace("http", "https")
        for pair, welcome in ((mine, True), (strangers, False), (None, False)):
            context = trusting(authority)
            if pair:
                context.load_cert_chain(pair.cert, pair.key)
            with httpx.Client(base_url=rest, verify=context) as client:
                if welcome:
                    assert client.post("/predict", json=BODY).status_code == 200
                else:
                    with pytest.raises(httpx.TransportError):
                        client.post("/predict", json=BODY)
            shown = (pair.key.read_bytes(), pair.cert.read_bytes()) if pair else (None, None)
            credentials = grpc.ssl_channel_credentials(authority.pair.cert.read_bytes(), *shown)
            with grpc.secure_channel(server.grpc, credentials) as channel:
                call = GRPCInferenceServiceStub(channel).ModelInfer
                if welcome:
                    assert call(to_pb(), timeout=GUARD_S).model_name == "churn"
                else:
                    with pytest.raises(grpc.RpcError) as caught:
                        call(to_pb(), timeout=GUARD_S)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
def test_plain_mlserver_start_refuses_to_run_with_a_lock_that_it_does_not_know(world: World, tmp_path: Path) -> None:
    ports = map(str, free_ports(3))
    names = ("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "mlserver"), "start", str(world.model_settings)],
        cwd=ROOT, env=os.environ | world.environment | dict(zip(names, ports, strict=True)) | {"SERVING_TOKEN": OLD},
        capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert "`mlserver start` knows neither; run: scripts/serve.py" in done.stdout + done.stderr
    assert OLD not in done.stdout + done.stderr


def test_the_admin_api_works_where_it_is_open(world: World, tmp_path: Path) -> None:
    with serving(world.environment | {"SERVING_ADMIN_API": "1"}, tmp_path / "log") as server:
        with httpx.Client(base_url=server.rest, timeout=GUARD_S) as client:
            (listed,) = client.post("/v2/repository/index", json={}).json()
            assert (listed["name"], listed["state"]) == ("churn", "READY")
            assert client.post("/v2/repository/models/churn/unload").status_code == 200
            gone = client.post("/predict", json=BODY)
            assert gone.status_code in (404, 503)
            assert client.post("/v2/repository/models/churn/load").status_code == 200
            wait_until_ready(server)
            assert client.post("/predict", json=BODY).status_code == 200
            assert client.post("/v2/repository/models/nobody/load").status_code == 404
        with grpc.insecure_channel(server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            assert [
                each.name for each in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=GUARD_S).models
            ] == ["churn"]
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="churn"), timeout=GUARD_S)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="churn"), timeout=GUARD_S)
            assert stub.ModelInfer(to_pb(), timeout=GUARD_S).model_name == "churn"


# A scorer that fails as third-party code does: with the values in its message.
BROKEN = """
import runpy, sys
from custom_runtime.model import scoring
opened = scoring.open_scorer
def open_scorer(*arguments):
    scorer = opened(*arguments)
    def score(rows):
        raise ValueError(f"cannot score {rows.tolist()}")
    class Broken:
        def __getattr__(self, name):
            return getattr(scorer, name)
    broken = Broken()
    broken.score = score
    return broken
scoring.open_scorer = open_scorer
sys.argv = ["scripts/serve.py"]
runpy.run_path("scripts/serve.py", run_name="__main__")
"""
SECRET_MONTHS, SECRET_CHARGES, SECRET_ID = 123.4375, 77.03125, 909090909


@pytest.mark.slow
def test_no_feature_value_and_no_token_is_ever_logged(world: World, tmp_path: Path) -> None:
    feature = {"tenure_months": SECRET_MONTHS, "monthly_charges": SECRET_CHARGES}
    bearer = {"Authorization": f"Bearer {NEW}"}
    for command in ((), ("-c", BROKEN)):
        log = tmp_path / f"log{len(command)}"
        with (
            serving(
                world.environment | {"SERVING_TOKEN": NEW}, log, command=command or ("scripts/serve.py",)
            ) as server,
            httpx.Client(base_url=server.rest, headers=bearer) as client,
        ):
            tensor = {"name": "tenure_months", "shape": [1], "datatype": "FP64", "data": [SECRET_MONTHS]}
            asked = [
                client.post("/predict", json={"customer_id": 42, **feature}),
                client.post("/predict", json={"customer_id": SECRET_ID}),
                client.post("/predict", json={"customer_id": 42, "contract": "Secret-Weekly", **feature}),
                client.post("/v2/models/churn/infer", json={"inputs": [*INFER["inputs"], tensor]}),
                client.post("/v2/models/churn/infer", json={"inputs": [*INFER["inputs"], tensor], "parameters": {}}),
                client.post("/v2/models/churn/infer", json={"inputs": [tensor | {"data": ["Secret-Weekly"]}]}),
                client.post("/v2/models/churn/infer", json={"inputs": ["Secret-Weekly", SECRET_MONTHS]}),
                client.post("/v2/models/Secret-Weekly/infer", json={"inputs": []}),
                client.post("/predict", json=feature, headers={"Authorization": "Bearer Secret-Weekly-token"}),
            ]
            request = to_pb()
            given = request.inputs.add(name="tenure_months", datatype="FP64", shape=[1])
            given.contents.fp64_contents.append(SECRET_MONTHS)
            with grpc.insecure_channel(server.grpc) as channel:
                call = GRPCInferenceServiceStub(channel).ModelInfer
                outcome = code_of(call, request)
        text = log.read_text()
        if command:
            assert [answer.status_code for answer in asked] == [500, 404, 422, 500, 500, 422, 422, 404, 401]
            assert outcome == "INTERNAL"
            events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            failures = [event for event in events if event["event"] == "request_failed"]
            assert len(failures) == 4  # the cause is logged, once for each
            assert all("ValueError" in each["exception"] and "in score" in each["exception"] for each in failures)
        else:
            assert [answer.status_code for answer in asked] == [200, 404, 422, 200, 200, 422, 422, 404, 401]
            assert outcome == "OK"
        for secret in (SECRET_MONTHS, SECRET_CHARGES, SECRET_ID, "Secret-Weekly", NEW):
            assert str(secret) not in text, (secret, text)


def code_of(call: object, request: pb.ModelInferRequest) -> str:
    try:
        call(request, timeout=GUARD_S, metadata=(("authorization", f"Bearer {NEW}"),))  # type: ignore[operator]
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_error_answers_are_not_kept_and_not_guessed_at(client: httpx.Client) -> None:
    for answer in (client.get("/nope"), client.post("/predict", content=b"x"), client.post("/v2/repository/index")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
