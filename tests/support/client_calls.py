"""Calls of real clients, as a program of its own: no process can hold both tritonclient's and MLServer's messages.

`python tests/support/client_calls.py GROUP REST GRPC METRICS` prints a JSON list of rows [client, call, answer, path].
answer: the probabilities that came back, true for a call without them, or the error as text. path: `fast` where the
server's counters say that the hot routes answered, `slow` where MLServer's routes did, `-` where it was no inference.
Only the standard library is imported at the top: the program also runs in KServe's environment.
"""

import asyncio
import json
import queue
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

LIMIT_S = 300
MODEL, KEY, OUTPUT, CUSTOMERS = "churn", "customer_id", "churn_probability", [42, 43]
PREDICT = json.dumps({KEY: CUSTOMERS[0]})
V2 = json.dumps({"inputs": [{"name": KEY, "shape": [2, 1], "datatype": "INT64", "data": CUSTOMERS}]})
JSON = {"content-type": "application/json"}
JAVA = Path(__file__).with_name("HttpCall.java")

Call = tuple[str, str, Callable[[], Any], bool]  # client, call, what runs it, whether it is an inference


def probabilities(text: str | bytes) -> list[float]:
    """Read the answer of /predict or of V2 infer."""
    answer = json.loads(text)
    if "outputs" not in answer:
        return [answer[OUTPUT]]
    return [float(value) for output in answer["outputs"] if output["name"] == OUTPUT for value in output["data"]]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-200:]}")
    return done.stdout


def read_run(command: list[str]) -> list[float]:
    return probabilities(run(command))


def curl(rest: str, grpc: str) -> Iterator[Call]:
    for call, path, body in (("POST /predict", "/predict", PREDICT), ("V2 infer", f"/v2/models/{MODEL}/infer", V2)):
        command = ["curl", "-sS", "--fail-with-body", "--max-time", str(LIMIT_S), "-d", body, rest + path]
        yield "curl", call, partial(read_run, command), True
    command = ["curl", "-sS", "--fail", "-I", "--max-time", str(LIMIT_S), f"{rest}/v2/health/ready"]
    yield "curl", "HEAD ready", lambda: "200" in run(command), False


def java(rest: str, grpc: str) -> Iterator[Call]:
    for version in ("HTTP_1_1", "HTTP_2"):
        command = ["java", str(JAVA), version, f"{rest}/predict", PREDICT]
        name = "HTTP/1.1" if version == "HTTP_1_1" else "HTTP/2 asked for by Upgrade, as by default"
        yield "Java `java.net.http`", name, partial(read_run, command), True


def python(rest: str, grpc: str) -> Iterator[Call]:
    import httpx
    import requests

    def by_urllib(url: str, body: str) -> list[float]:
        request = urllib.request.Request(url, body.encode(), JSON)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return probabilities(answer.read())

    def by_requests(url: str, body: str) -> list[float]:
        answer = requests.post(url, data=body, headers=JSON, timeout=LIMIT_S)
        answer.raise_for_status()
        return probabilities(answer.content)

    def by_httpx(url: str, body: str) -> list[float]:
        return probabilities(httpx.post(url, content=body, headers=JSON, timeout=LIMIT_S).raise_for_status().content)

    async def by_async_httpx(url: str, body: str) -> list[float]:
        async with httpx.AsyncClient(timeout=LIMIT_S) as client:
            return probabilities((await client.post(url, content=body, headers=JSON)).raise_for_status().content)

    for call, path, body in (("POST /predict", "/predict", PREDICT), ("V2 infer", f"/v2/models/{MODEL}/infer", V2)):
        url = rest + path
        yield "urllib", call, partial(by_urllib, url, body), True
        yield "requests", call, partial(by_requests, url, body), True
        yield "httpx", call, partial(by_httpx, url, body), True
        yield "httpx (async)", call, partial(by_async_httpx, url, body), True


def triton_http(rest: str, grpc: str) -> Iterator[Call]:
    import tritonclient.http
    import tritonclient.http.aio
    from numpy import array

    address = rest.removeprefix("http://")

    def tensors(kind: Any, *, binary: bool, outputs: bool) -> dict[str, Any]:
        key = kind.InferInput(KEY, [2, 1], "INT64")
        key.set_data_from_numpy(array(CUSTOMERS).reshape(-1, 1), binary_data=binary)
        wanted = [kind.InferRequestedOutput(OUTPUT, binary_data=binary)] if outputs else None
        return {"inputs": [key], "outputs": wanted}

    def sync(method: str, **given: Any) -> Any:
        with tritonclient.http.InferenceServerClient(address) as client:
            answer = getattr(client, method)(MODEL, **given)
            answer = answer.get_result() if method == "async_infer" else answer
            return answer.as_numpy(OUTPUT).ravel().tolist() if "infer" in method else bool(answer)

    async def aio(**given: Any) -> list[float]:
        async with tritonclient.http.aio.InferenceServerClient(address) as client:
            values: list[float] = (await client.infer(MODEL, **given)).as_numpy(OUTPUT).ravel().tolist()
            return values

    for binary in (True, False):
        kind = "binary" if binary else "JSON"
        given = tensors(tritonclient.http, binary=binary, outputs=True)
        yield "tritonclient.http", f"infer, {kind}", partial(sync, "infer", **given), True
        yield "tritonclient.http", f"async_infer, {kind}", partial(sync, "async_infer", **given), True
        yield "tritonclient.http.aio", f"infer, {kind}", partial(aio, **given), True
    given = tensors(tritonclient.http, binary=True, outputs=False)
    yield "tritonclient.http", "infer, no outputs named", lambda: sync("infer", **given), True
    packed = given | {"request_compression_algorithm": "gzip"}
    yield "tritonclient.http", "infer, gzip", lambda: sync("infer", **packed), True
    yield "tritonclient.http", "is_model_ready", lambda: sync("is_model_ready"), False
    yield "tritonclient.http", "get_model_metadata", lambda: sync("get_model_metadata"), False


def triton_grpc(rest: str, grpc: str) -> Iterator[Call]:
    import tritonclient.grpc
    import tritonclient.grpc.aio
    from numpy import array

    key = tritonclient.grpc.InferInput(KEY, [2, 1], "INT64")
    key.set_data_from_numpy(array(CUSTOMERS).reshape(-1, 1))
    wanted = [tritonclient.grpc.InferRequestedOutput(OUTPUT)]

    def sync(method: str, **given: Any) -> Any:
        with tritonclient.grpc.InferenceServerClient(grpc) as client:
            answer = getattr(client, method)(MODEL, **given)
            return answer.as_numpy(OUTPUT).ravel().tolist() if method == "infer" else bool(answer)

    def stream() -> list[float]:
        answers: queue.Queue[Any] = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(grpc) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer(MODEL, [key], outputs=wanted)
            result, error = answers.get(timeout=LIMIT_S)
            client.stop_stream()
        if error is not None:
            raise error
        values: list[float] = result.as_numpy(OUTPUT).ravel().tolist()
        return values

    async def aio() -> list[float]:
        async with tritonclient.grpc.aio.InferenceServerClient(grpc) as client:
            values: list[float] = (await client.infer(MODEL, [key], outputs=wanted)).as_numpy(OUTPUT).ravel().tolist()
            return values

    async def aio_stream() -> list[float]:
        async def requests() -> Any:
            yield {"model_name": MODEL, "inputs": [key], "outputs": wanted}

        async with tritonclient.grpc.aio.InferenceServerClient(grpc) as client:
            async for result, error in client.stream_infer(requests()):
                if error is not None:
                    raise error
                values: list[float] = result.as_numpy(OUTPUT).ravel().tolist()
                return values
        raise RuntimeError("the stream ended without an answer")

    yield "tritonclient.grpc", "infer", lambda: sync("infer", inputs=[key], outputs=wanted), True
    yield "tritonclient.grpc", "infer, gzip", lambda: sync("infer", inputs=[key], compression_algorithm="gzip"), True
    yield "tritonclient.grpc", "stream", stream, True
    yield "tritonclient.grpc.aio", "infer", aio, True
    yield "tritonclient.grpc.aio", "stream_infer", aio_stream, True
    yield "tritonclient.grpc", "is_model_ready", lambda: sync("is_model_ready"), False
    yield "tritonclient.grpc", "get_model_metadata", lambda: sync("get_model_metadata"), False


def reflection(rest: str, grpc: str) -> Iterator[Call]:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc import insecure_channel
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    service = "inference.GRPCInferenceService"

    def names() -> bool:
        with insecure_channel(grpc) as channel:
            return service in ProtoReflectionDescriptorDatabase(channel).get_services()

    def infer() -> list[float]:
        with insecure_channel(grpc) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            method = pool.FindServiceByName(service).FindMethodByName("ModelInfer")
            request = GetMessageClass(method.input_type)(model_name=MODEL)
            key = request.inputs.add(name=KEY, datatype="INT64", shape=[len(CUSTOMERS)])
            key.contents.int64_contents.extend(CUSTOMERS)
            call = channel.unary_unary(f"/{service}/ModelInfer")
            answer = GetMessageClass(method.output_type).FromString(call(request.SerializeToString(), timeout=LIMIT_S))
        return [value for output in answer.outputs if output.name == OUTPUT for value in output.contents.fp64_contents]

    yield "gRPC reflection, as grpcurl", "list", names, False
    yield "gRPC reflection, as grpcurl", "ModelInfer by descriptors", infer, True


def mlserver(rest: str, grpc: str) -> Iterator[Call]:
    program = str(Path(sys.executable).with_name("mlserver"))

    def infer(*options: str) -> list[float]:
        with tempfile.TemporaryDirectory() as directory:
            given, answers = Path(directory, "requests.jsonl"), Path(directory, "answers.jsonl")
            given.write_text(V2 + "\n")
            files = ["-i", str(given), "-o", str(answers)]
            run([program, "infer", "-u", rest.removeprefix("http://"), "-m", MODEL, *files, *options])
            return probabilities(answers.read_text())

    yield "`mlserver infer`", "JSON", infer, True
    yield "`mlserver infer -b`", "binary", lambda: infer("-b"), True


def kserve(rest: str, grpc: str) -> Iterator[Call]:
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig  # type: ignore[import-not-found]
    from numpy import array

    def request(*, binary: bool) -> Any:
        key = InferInput(KEY, [2, 1], "INT64")
        key.set_data_from_numpy(array(CUSTOMERS).reshape(-1, 1), binary_data=binary)
        return InferRequest(MODEL, [key])

    def values(answer: Any) -> list[float]:
        (found,) = [output for output in answer.outputs if output.name == OUTPUT]
        numbers: list[float] = found.as_numpy().ravel().tolist()
        return numbers

    async def over_rest(*, binary: bool) -> list[float]:
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=LIMIT_S))
        try:
            return values(await client.infer(rest, request(binary=binary), model_name=MODEL))
        finally:
            await client.close()

    async def over_grpc() -> list[float]:
        client = InferenceGRPCClient(grpc, timeout=LIMIT_S)
        try:
            return values(await client.infer(request(binary=False)))
        finally:
            await client.close()

    async def is_ready() -> bool:
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=LIMIT_S))
        try:
            return bool(await client.is_model_ready(rest, model_name=MODEL))
        finally:
            await client.close()

    yield "kserve `InferenceRESTClient`", "infer, binary", lambda: over_rest(binary=True), True
    yield "kserve `InferenceRESTClient`", "infer, JSON", lambda: over_rest(binary=False), True
    yield "kserve `InferenceRESTClient`", "is_model_ready", is_ready, False
    yield "kserve `InferenceGRPCClient`", "infer", over_grpc, True


GROUPS = {each.__name__: each for each in (curl, python, java, triton_http, triton_grpc, reflection, mlserver, kserve)}


def count(metrics: str) -> tuple[float, float]:
    """Return the inferences that were answered with 200, and the requests that MLServer's own routes saw."""
    with urllib.request.urlopen(metrics, timeout=LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    answered = [line for line in lines if line.startswith("serving_request_seconds_count{") and 'code="200"' in line]
    slow = ("rest_server_requests_total", "model_infer_request_success_total", "model_infer_request_failure_total")
    passed = [line for line in lines if line.startswith(slow)]
    return sum(float(line.split()[-1]) for line in answered), sum(float(line.split()[-1]) for line in passed)


def outcome(work: Callable[[], Any]) -> Any:
    async def wait(awaitable: Awaitable[Any]) -> Any:
        return await asyncio.wait_for(awaitable, LIMIT_S)

    try:
        result = work()
        return asyncio.run(wait(result)) if asyncio.iscoroutine(result) else result
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]


def main(group: str, rest: str, grpc: str, metrics: str) -> None:
    rows = []
    for client, call, work, is_inference in GROUPS[group](rest, grpc):
        answered, passed = count(metrics)
        answer = outcome(work)
        now_answered, now_passed = count(metrics)
        path = "-"
        if is_inference:
            path = "fast" if now_answered > answered and now_passed == passed else "slow"
        rows.append([client, call, answer, path])
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
