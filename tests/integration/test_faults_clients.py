"""More load than the service can carry, and clients that hold it up: what they get, and what stays behind."""

import asyncio
import contextlib
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.compare.closed_loop import Loop, closed_loop, run_h2load
from benchmarks.errors import MeasurementError
from benchmarks.load.open_loop import run_load
from benchmarks.load.result import LoadPlan
from benchmarks.load.target import GRPC_PATH, Protocol, key_bodies, parse_target, v2_rest_body
from benchmarks.soak.traffic import GrpcCaller, RestCaller, Traffic
from tests.support.attempts import attempts
from tests.support.faults import HOST, latency_ms, predict, until, v2_rest
from tests.support.http_replies import BODY, REQUEST, read_reply
from tests.support.programs import GUARD_S, program
from tests.support.serving import Server, World, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]

IDLE = 1_000
# A third of what a client in Python sends without delays of its own.
CLIENT_LIMIT_QPS = 600


def resident_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def capacity(server: Server, rows: int) -> float:
    """Requests of so many rows that are answered in a second when two callers ask without a pause.

    One that is late or shed, because the cores were another machine's, does not count.
    """
    body = v2_rest_body("customer_id", "INT64", [row + 1 for row in range(rows)], rows=rows)
    caller = RestCaller(HOST, server.http_port, "/v2/models/churn/infer")
    answered, until_s = 0, time.perf_counter() + 1.5

    async def ask() -> None:
        nonlocal answered
        while time.perf_counter() < until_s:
            reply = await caller.ask(body, timeout_s=GUARD_S)
            assert reply.status in (200, 503, 504), reply
            answered += reply.status == 200

    await asyncio.gather(*(ask() for _ in range(2)))
    await caller.close()
    return answered / 1.5


async def flood(server: Server, limit_qps: float, rows: int) -> dict[str, float]:
    """Ask three times what the server can answer, for five seconds; return what became of it."""
    before_mb = resident_mb(server)
    counted = {code: answered_within(server, code, "+Inf") for code in ("200", "503")}
    early = {code: answered_within(server, code, edge) for code, edge in (("200", "0.05"), ("503", "0.005"))}
    async with Traffic([v2_rest(server, qps=3 * limit_qps, rows=rows)]) as traffic:
        await asyncio.sleep(5)
        await traffic.stop()
    results = traffic.results()
    assert len(traffic.outcomes) == traffic.sent
    # Where the cores were another machine's: requests that waited too long, connections that the client could not open.
    late = results["504 deadline_exceeded"]
    refused = sum(count for result, count in results.items() if result.startswith("refused "))
    assert results["200"] + results["503 overloaded"] + late + refused == traffic.sent, results
    shed = [one.reply for one in traffic.outcomes if one.reply and one.reply.status == 503]
    assert all(reply.headers["retry-after"] == "1" for reply in shed)
    # The server's own clock: a client on a busy machine reads late.
    return {
        "answered in 50 ms": (answered_within(server, "200", "0.05") - early["200"]) / max(1, results["200"]),
        "shed in 5 ms": (answered_within(server, "503", "0.005") - early["503"]) / max(1, results["503 overloaded"]),
        "late": late,
        "refused": refused,
        "answered": results["200"],
        "shed": results["503 overloaded"],
        "counted": sum(answered_within(server, code, "+Inf") - counted[code] for code in counted),
        "grew MB": resident_mb(server) - before_mb,
    }


def answered_within(server: Server, code: str, edge: str, *, route: str = "v2_rest") -> float:
    """Return how many answers with a status took at most `edge` seconds, by the server's own clock."""
    return server.samples("serving_request_seconds_bucket", route=route, code=code, le=edge)


def of_heavy_requests(world: World, log: Path, rows: int) -> contextlib.AbstractContextManager[Server]:
    heavy = {"SERVING_OFFLOAD_ROWS": str(rows), "SERVING_COALESCE_ROWS": str(rows), "SERVING_STORE_TIMEOUT_MS": "1000"}
    return serving(world.environment | heavy, log, patient=False)


async def test_at_three_times_its_capacity_it_sheds_at_once_and_serves_the_rest_in_time(
    world: World, tmp_path: Path
) -> None:
    # Requests so heavy that a client in Python can send three times what the server can answer.
    rows = 512
    with of_heavy_requests(world, tmp_path / "log", rows) as server:
        rows *= max(1, round(await capacity(server, rows) / CLIENT_LIMIT_QPS))
    with of_heavy_requests(world, tmp_path / "log", rows) as server:
        # Of a core that never rests: 20 ms without it delay all 30 ms of the queue, one in a hundred of five seconds.
        for attempt in attempts(most_stolen=0.002):
            limit_qps = await capacity(server, rows)
            figures = await flood(server, limit_qps, rows)
            caller = RestCaller(HOST, server.http_port, "/predict")
            after = [await caller.ask(BODY, timeout_s=GUARD_S) for _ in range(20)]
            await caller.close()
            assert figures["counted"] == figures["answered"] + figures["shed"]
            assert figures["grew MB"] < 30, figures
            attempt.end(
                is_met=figures["late"] == figures["refused"] == 0
                and [reply.status for reply in after] == [200] * 20
                and figures["answered in 50 ms"] >= 0.99
                and figures["shed in 5 ms"] >= 0.99
                # It goes on working at its rate while it sheds the rest. Half: the client takes its share of two cores.
                and figures["answered"] > 0.5 * limit_qps * 5
                and figures["shed"] > figures["answered"] / 2,
                figures=figures
                | {"rows": rows, "capacity": limit_qps, "after": Counter(reply.status for reply in after)},
            )


def answers_of(server: Server, code: int) -> float:
    """Return how many gRPC calls the server counts with this status."""
    return server.samples("serving_request_seconds_count", route="v2_grpc", code=str(code))


def test_a_flood_of_grpc_calls_is_answered_in_time_or_refused(world: World, tmp_path: Path) -> None:
    program("h2load", package="nghttp2-client")
    (body,) = key_bodies(Protocol.V2_GRPC, "churn", [42])
    with serving(world.environment | {"SERVING_MAX_INFLIGHT": "16"}, tmp_path / "log", patient=False) as server:
        target = parse_target(f"grpc://{server.grpc}")
        flooded = partial(run_h2load, target, GRPC_PATH, body, cpu=1)
        in_time = partial(answered_within, server, "200", "0.05", route="v2_grpc")
        for attempt in attempts():
            alone = flooded(duration_s=2, counted=partial(answers_of, server, 200)).requests_per_s
            before_mb, before = resident_mb(server), answers_of(server, 200)
            before_in_time = in_time()
            # h2load counts refused calls as answers, cancelled ones as failures: the server's own counts are judged.
            with contextlib.suppress(MeasurementError):
                flooded(duration_s=5, counted=lambda: 0.0, connections=64, streams=4)
            answered = answers_of(server, 200) - before
            figures = {
                "alone": alone,
                "answered": answered,
                "in 50 ms": (in_time() - before_in_time) / max(1, answered),
                "grew MB": resident_mb(server) - before_mb,
            }
            # A refused call is repeated at once here, which costs as much as an answer: few calls get one, and in time.
            assert answered > 0, figures
            assert figures["grew MB"] < 30, figures
            attempt.end(is_met=figures["in 50 ms"] >= 0.99, figures=figures)
        # Fewer connections than calls may wait: none is shed now, not even by a machine that stands still.
        plan = LoadPlan(target, GRPC_PATH, (body,), is_grpc=True, qps=200, duration_s=1, connections=8, timeout_s=10)
        assert not run_load(plan).failures


async def test_a_burst_of_calls_over_one_grpc_connection_is_answered(server: Server) -> None:
    body = next(iter(key_bodies(Protocol.V2_GRPC, "churn", range(42, 43))))
    caller = GrpcCaller(HOST, server.grpc_port)
    for _ in range(10):
        replies = await asyncio.gather(*(caller.ask(body, timeout_s=GUARD_S) for _ in range(100)))
        assert {reply.status for reply in replies} == {200}
    await caller.close()


@contextlib.contextmanager
def file_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_wide_bodies_do_not_delay_the_others(world: World, tmp_path: Path) -> None:
    # Numbers in one list, and 300,000 lists in lists: either kept the interpreter's lock for 100 ms and more.
    rows = 100_000
    wide = {name: [1.5] * rows for name in ("tenure_months", "monthly_charges", "total_charges")}
    numbers = [{"name": "customer_id", "shape": [rows], "datatype": "INT64", "data": [*range(1, 7001)] * 15}]
    numbers[0]["data"] = numbers[0]["data"][:rows]
    numbers += [{"name": name, "shape": [rows], "datatype": "FP32", "data": data} for name, data in wide.items()]
    nested = [{"name": "customer_id", "shape": [rows, 1], "datatype": "INT64", "data": [[1]] * rows}]
    bodies = [json.dumps({"inputs": inputs}).encode() for inputs in (numbers, nested)]
    with serving(world.environment, tmp_path / "log", patient=False) as server:
        target = parse_target(server.rest)
        plan = LoadPlan(target, "/predict", (BODY,), is_grpc=False, qps=500, duration_s=4)
        loop = Loop(target, "/v2/models/churn/infer", tuple(bodies), connections=1, cpu=1)
        for attempt in attempts():
            with closed_loop(loop) as batches:
                beside = run_load(plan)
            assert not beside.failures, beside.example
            assert batches[0].requests_per_s > 0
            attempt.end(is_met=beside.summary.p99_ms < 50, figures=beside.summary)


async def test_slow_idle_and_impatient_clients_cost_the_others_nothing_and_leave_nothing_behind(
    world: World, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        with file_limit(512):  # what it inherits is less than it needs
            server = stack.enter_context(serving(world.environment, tmp_path / "log", patient=False))
        stack.enter_context(file_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        before = open_files(server)
        async with Traffic([predict(server, qps=100), predict(server, qps=20, name="fresh", fresh=True)]) as traffic:
            idle = [await asyncio.open_connection(HOST, server.http_port) for _ in range(IDLE)]
            heads, bodies, gone = [
                [await asyncio.open_connection(HOST, server.http_port) for _ in range(50)] for _ in range(3)
            ]
            await until(lambda: open_files(server) > before + IDLE, what="all connections accepted")
            for _, writer in heads:
                writer.write(b"POST /predict HTTP/1.1\r\nHost: he")
            for _, writer in bodies:
                writer.write(REQUEST[:-4])
            for _, writer in gone:
                writer.write(REQUEST)
                writer.transport.abort()
            dripping = asyncio.create_task(drip([writer for _, writer in heads]))  # noqa: RUF006 (cancelled below)
            late = await asyncio.gather(*(asyncio.wait_for(read_reply(reader), GUARD_S) for reader, _ in bodies))
            assert {reply.status for reply in late} == {408}
            assert await pipelined(server, 20) == [200] * 20
            # Half a head is waited for ten seconds, however often another byte comes.
            await asyncio.gather(*(asyncio.wait_for(ended(reader), GUARD_S) for reader, _ in heads))
            dripping.cancel()
            await traffic.stop()
            for _, writer in [*idle, *heads, *bodies]:
                writer.close()
        await until(lambda: open_files(server) <= before + 5, what="all files closed")
    assert len(traffic.outcomes) == traffic.sent
    assert traffic.results() == {"200": traffic.sent}
    assert latency_ms(traffic, 0.95) < 250


@pytest.fixture(scope="module")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the default time limits, for tests that leave it as they found it."""
    with serving(world.environment, tmp_path_factory.mktemp("limits") / "log", patient=False) as running:
        yield running


@pytest.mark.parametrize(
    "route", ["POST /predict", "POST /v2/models/churn/infer", "GET /v2/models/churn", "POST /nope"]
)
async def test_a_body_that_drips_has_the_deadline_and_no_longer(server: Server, route: str) -> None:
    reader, writer = await asyncio.open_connection(HOST, server.http_port)
    writer.write(f"{route} HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\n".encode())
    dripping = asyncio.create_task(drip([writer]))
    began_s = time.monotonic()
    late = await asyncio.wait_for(read_reply(reader), GUARD_S)
    dripping.cancel()
    writer.close()
    assert (late.status, late.code) == (408, "request_timeout")
    assert time.monotonic() - began_s < GUARD_S  # to its end, the body would drip for hours


async def drip(writers: list[asyncio.StreamWriter]) -> None:
    while True:
        for writer in writers:
            writer.write(b"r")
        await asyncio.sleep(0.5)


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""


async def pipelined(server: Server, count: int) -> list[int]:
    reader, writer = await asyncio.open_connection(HOST, server.http_port)
    writer.write(REQUEST * count)
    replies = [await asyncio.wait_for(read_reply(reader), GUARD_S) for _ in range(count)]
    writer.close()
    return [reply.status for reply in replies]
