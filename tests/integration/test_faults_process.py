"""Processes that end, are replaced, or load a new version, under load: no request that was sent is lost."""

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path

import grpc
import httpx
import pytest

from benchmarks.load.target import v2_grpc_message
from benchmarks.soak.traffic import Outcome, RestCaller, Traffic, read_reply
from tests.support.faults import HOST, predict, until, v2_grpc, v2_rest
from tests.support.http_replies import REQUEST
from tests.support.programs import GUARD_S, is_listening
from tests.support.serving import Server, World, children, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]
# What is shed because the machine stood still says nothing here, and a call that gRPC sheds looks like one cut off.
PATIENT = {
    "SERVING_GRPC_MAX_WAITING": "1000",
    "SERVING_MAX_INFLIGHT": "5000",
    "SERVING_MAX_QUEUE_MS": "10000",
    "SERVING_DEADLINE_MS": "10000",
}
DRAIN_DELAY_S = 2


def mixed(server: Server, *, share: float = 1.0) -> Traffic:
    """500 requests/s: /predict on kept and on fresh connections, V2 over REST and over gRPC."""
    return Traffic(
        [
            predict(server, qps=200 * share),
            predict(server, qps=50 * share, name="fresh", fresh=True),
            v2_rest(server, qps=100 * share),
            v2_grpc(server, qps=150 * share),
        ]
    )


async def is_ready(server: Server) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{server.rest}/v2/models/churn/ready")).status_code == 200


def lasted_s(outcomes: list[Outcome]) -> float:
    """From the first to the last that was sent: a machine that stands still sends later, and then all at once."""
    sent_s = [one.sent_s for one in outcomes]
    return max(sent_s) - min(sent_s)


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_at_500_requests_a_second_loses_none(world: World, tmp_path: Path, workers: int) -> None:
    environment = world.environment | {
        "SERVING_DRAIN_DELAY_S": str(DRAIN_DELAY_S),
        "SERVING_GRPC_CONNECTION_AGE_S": "2",
        **PATIENT,
    }
    command = ("scripts/serve.py", "--workers", str(workers))
    with serving(environment, tmp_path / "log", command=command) as server:
        async with mixed(server) as traffic:
            await asyncio.sleep(2)
            told_s = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            while await is_ready(server):
                pass
            unready_s = time.perf_counter()
            # The requests go on until nobody listens: what is accepted until then is answered, the rest is refused.
            await until(lambda: server.process.poll() is not None, what="the end")
            await traffic.stop()
        assert server.process.returncode == 0
    assert len(traffic.outcomes) == traffic.sent
    assert not [one.result for one in traffic.outcomes if not one.result.startswith(("200", "refused "))]
    # It accepts for all of the delay. The end of a request that is refused counts: a client that stands still, or that
    # connects anew, may be refused much later than it asked.
    assert all(one.ended_s > told_s + DRAIN_DELAY_S for one in traffic.outcomes if one.result != "200")
    served = [one for one in traffic.outcomes if one.result == "200"]
    assert max(one.ended_s for one in served) > told_s + DRAIN_DELAY_S / 2
    assert len(served) > 100 * lasted_s(served)  # a fifth: the client has its share of two cores
    asked = [one.reply for one in served if one.sent_s > unready_s and one.stream == "predict" and one.reply]
    assert asked
    assert all(reply.headers.get("connection") == "close" for reply in asked)


async def test_what_is_in_flight_when_the_ports_close_is_answered(world: World, tmp_path: Path) -> None:
    body = b'{"customer_id": 42}'
    request = v2_grpc_message("churn", "customer_id", "INT64", [42])
    environment = world.environment | {"SERVING_DRAIN_DELAY_S": "0", "SERVING_DEADLINE_MS": "10000"}
    with serving(environment, tmp_path / "log") as server:
        reader, writer = await asyncio.open_connection(HOST, server.http_port)
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            # Bytes: tritonclient's and MLServer's types of a streamed answer differ.
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
            await stream.write(request)
            assert b"churn_probability" in await stream.read()
            # Both are in flight now: a stream that is open, and a request whose body has not arrived.
            writer.write(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body))
            await writer.drain()
            await RestCaller(HOST, server.http_port, "/predict", fresh=True).ask(body, timeout_s=GUARD_S)
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: not is_listening(server.http_port), what="the port closes")
            writer.write(body)
            await stream.write(request)
            assert b"churn_probability" in await stream.read()
            await stream.done_writing()
            answer = await read_reply(reader)
        writer.close()
        assert await asyncio.to_thread(server.process.wait, GUARD_S) == 0
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


async def test_what_comes_late_on_a_connection_that_was_open_when_the_port_closed_is_answered(
    world: World, tmp_path: Path
) -> None:
    with serving(world.environment | {"SERVING_DRAIN_DELAY_S": "0"}, tmp_path / "log") as server:
        unused, begun = [await asyncio.open_connection(HOST, server.http_port) for _ in range(2)]
        begun[1].write(REQUEST[:20])
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in server.log.read_text(), what="the end begins")
        await asyncio.sleep(0.5)
        unused[1].write(REQUEST)
        begun[1].write(REQUEST[20:])
        answers = [await read_reply(reader) for reader, _ in (unused, begun)]
        for _, writer in (unused, begun):
            writer.close()
        assert await asyncio.to_thread(server.process.wait, GUARD_S) == 0
    assert [answer.status for answer in answers] == [200, 200]
    assert {answer.headers["connection"] for answer in answers} == {"close"}


async def test_a_killed_worker_loses_what_it_had_in_flight_and_a_roll_of_all_workers_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    # The default: long enough for every kept connection to hear that it shall leave.
    environment = world.environment | {"SERVING_DRAIN_DELAY_S": "3", "SERVING_GRPC_CONNECTION_AGE_S": "2", **PATIENT}
    with serving(environment, tmp_path / "log", command=("scripts/serve.py", "--workers", "2")) as server:
        async with mixed(server, share=0.4) as traffic:
            await until(lambda: traffic.results()["200"] > 200, what="a warm start")
            first = set(children(server.process.pid))

            server.process.send_signal(signal.SIGHUP)
            await until(lambda: first.isdisjoint(children(server.process.pid)), what="a roll")
            await until(lambda: "worker_rolled" in server.log.read_text(), what="its log")
            assert set(traffic.results()) == {"200"}, traffic.results()

            killed = children(server.process.pid)[0]
            in_flight, kill_s = traffic.inflight, time.perf_counter()
            os.kill(killed, signal.SIGKILL)
            await until(lambda: len(set(children(server.process.pid)) - {killed}) == 2, what="a replacement")
            await until(lambda: server.log.read_text().count("model_loaded") >= 5, what="the replacement's model")
            settled_s = time.perf_counter() + 1
            await until(lambda: traffic.results(since_s=settled_s)["200"] > 100, what="a healthy end")
    assert len(traffic.outcomes) == traffic.sent
    lost = [one for one in traffic.outcomes if one.is_lost]
    # In flight: sent before the kill, or written to a connection whose end this client had not read yet.
    assert all(in_flight_at(kill_s, one) for one in lost), lost
    assert len(lost) <= in_flight + 30
    # Nothing was sent. While its channel reconnects, a gRPC client refuses by itself. A backlog is reset.
    refused = [one for one in traffic.outcomes if one.result.startswith("refused")]
    assert all(one.result.startswith("refused failed to connect") or in_flight_at(kill_s, one) for one in refused)
    assert traffic.results().total() == traffic.results()["200"] + len(lost) + len(refused), traffic.results()


def in_flight_at(moment_s: float, one: Outcome) -> bool:
    """Whether a request was under way at a moment, or sent within a second after it."""
    return one.sent_s < moment_s + 1 and one.ended_s > moment_s


async def test_rolls_under_many_grpc_connections_cut_no_call(world: World, tmp_path: Path) -> None:
    # Without an age, gRPC's server cancels about one call for every two workers that stop under this load.
    environment = world.environment | {
        "SERVING_DRAIN_DELAY_S": "0.5",
        "SERVING_GRPC_CONNECTION_AGE_S": "1.5",
        **PATIENT,
    }
    with serving(environment, tmp_path / "log", command=("scripts/serve.py", "--workers", "2")) as server:
        async with Traffic([v2_grpc(server, qps=80) for _ in range(5)]) as traffic:
            for roll in range(2):
                old = set(children(server.process.pid))
                server.process.send_signal(signal.SIGHUP)
                await until(
                    lambda old=old: old.isdisjoint(children(server.process.pid)),  # type: ignore[misc]
                    what=f"roll {roll}",
                )
            await until(
                lambda: server.log.read_text().count("worker_rolled") == 4,
                what="the last old worker's end",
            )
            await traffic.stop()
    assert len(traffic.outcomes) == traffic.sent
    assert traffic.sent > 2_000
    assert traffic.results() == {"200": traffic.sent}


async def test_a_new_version_through_the_repository_api_fails_no_request(world: World, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(world.bundle, bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    environment = world.environment | {"SERVING_BUNDLE": str(bundle), "SERVING_ADMIN_API": "1", **PATIENT}
    versions = [manifest["version"], "next-1", "next-2"]
    with serving(environment, tmp_path / "log") as server:
        async with mixed(server, share=0.4) as traffic, httpx.AsyncClient(timeout=GUARD_S) as client:
            for version in versions:
                if version != manifest["version"]:
                    new = bundle / "bundle.json.new"
                    new.write_text(json.dumps(manifest | {"version": version}))
                    new.replace(bundle / "bundle.json")
                    loaded = await client.post(f"{server.rest}/v2/repository/models/churn/load")
                    assert loaded.status_code == 200, loaded.text
                after_s = time.perf_counter()
                await until(
                    lambda since_s=after_s: traffic.results(since_s=since_s)["200"] > 100,  # type: ignore[misc]
                    what="answers of the version",
                )
                answers = [one for one in traffic.outcomes if one.sent_s > after_s and one.reply]
                bodies = [(one.stream, one.reply.body) for one in answers if one.reply]
                assert {b'"%b"' % version.encode() in body for stream, body in bodies if stream != "v2_grpc"} == {True}
                assert {version.encode() in body for _, body in bodies} == {True}
    assert len(traffic.outcomes) == traffic.sent
    assert traffic.results() == {"200": traffic.sent}
