"""Seldon's executor (service orchestrator) of Core 1.17.1 under the V2 protocol over REST, as an ASGI app.

Written after what the real one does (executor/predictor and executor/api/rest in its repository), its traps included:

- The model name of the URL replaces the name of every node: callers of a graph use `/v2/models/infer`.
- Before MODEL, TRANSFORMER and OUTPUT_TRANSFORMER nodes a response becomes a request by renaming `outputs` to `inputs`;
  model_name, id and parameters travel along. Routers and combiners get the message as it is.
- A COMBINER's children run at the same time; it gets a plain array of their responses, and only if all were 200.
- The first failed child, in the graph's order, is the caller's answer: its status and body, but not its content type. A
  child that cannot be reached is a 500.
- A ROUTER answers a bare `[n]`: -1 is every child, -2 none (the message goes back as it is).
- There are no `/predict`, no feedback, no limit of time unless the annotation sets one, and no retry. gRPC is left out
  here: over gRPC the real one can neither combine nor route.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

HOST = "127.0.0.1"
PUID = "seldon-puid"
EVERY_CHILD, NO_CHILD = -1, -2
# The real one drops the content type only; the others here belong to one connection, which Go's client sets itself.
_NOT_PASSED_ON = frozenset({"content-type", "content-length", "host", "connection", "transfer-encoding"})


class Node(BaseModel):
    """A node of the graph with the port of its container; type: MODEL, TRANSFORMER, COMBINER, ROUTER, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: str
    port: int
    children: tuple[Node, ...] = ()

    def nodes(self) -> tuple[Node, ...]:
        """Return this node and all below it, depth first."""
        return (self, *(node for child in self.children for node in child.nodes()))


class Reply(NamedTuple):
    """A node's answer, or the executor's own."""

    status: int
    body: bytes
    content_type: str = "application/json"


class Failed(Exception):
    """A node did not answer 200; the caller gets this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Executor:
    """Walks the graph for one request after the other. timeout_s: None, as the real one without its annotation."""

    def __init__(
        self, graph: Node, timeout_s: float | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._graph = graph
        # One connection for each call in flight: a limit would queue what the real one sends.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(timeout=timeout_s, limits=limits, trust_env=False, transport=transport)

    def app(self) -> Starlette:
        """Return the ASGI app."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self._client.aclose()

        return Starlette(
            lifespan=lifespan,
            routes=[
                Route("/v2/models/infer", self._infer, methods=["POST"]),
                Route("/v2/models/{model}/infer", self._infer, methods=["POST"]),
                Route("/v2/models/{model}/ready", self._model, methods=["GET"]),
                Route("/v2/models/{model}", self._model, methods=["GET"]),
                Route("/v2/health/ready", self._ready, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
                Route("/live", lambda request: Response(), methods=["GET"]),
            ],
        )

    async def _infer(self, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_PASSED_ON}
        puid = headers.setdefault(PUID, str(uuid.uuid4()))
        walk = _Walk(self._client, headers, request.path_params.get("model", ""))
        try:
            reply = await walk.predict(self._graph, Reply(200, await request.body()))
        except Failed as failed:
            # The real one writes the status before the headers: the content type of an error is lost.
            reply = failed.reply._replace(content_type="text/plain; charset=utf-8")
        return Response(reply.body, reply.status, {PUID: puid}, reply.content_type)

    async def _model(self, request: Request) -> Response:
        """Pass readiness and metadata of one node on."""
        name = request.path_params["model"]
        node = next((node for node in self._graph.nodes() if node.name == name), None)
        if node is None:
            return _response(_failure(f"Failed to find model {name}"))
        try:
            answer = await self._client.get(f"http://{HOST}:{node.port}{request.url.path}")
        except httpx.HTTPError as error:
            return _response(_failure(str(error)))
        return Response(answer.content, answer.status_code, media_type="application/json")

    async def _ready(self, _: Request) -> Response:
        """Every node answers its own health route: with the kubelet's probes, what a pod's readiness is."""

        async def is_ready(node: Node) -> bool:
            try:
                return (await self._client.get(f"http://{HOST}:{node.port}/v2/health/ready")).status_code == 200
            except httpx.HTTPError:
                return False

        ready = await asyncio.gather(*map(is_ready, self._graph.nodes()))
        return Response(status_code=200 if all(ready) else 503)


class _Walk:
    """One request on its way through the graph."""

    def __init__(self, client: httpx.AsyncClient, headers: Mapping[str, str], model: str) -> None:
        self._client = client
        self._headers = headers
        self._model = model

    async def predict(self, node: Node, message: Reply) -> Reply:
        if node.type in ("MODEL", "TRANSFORMER"):
            message = await self._call(node, "infer", chained(message))
        if node.children:
            message = await self._children(node, message)
        if node.type == "OUTPUT_TRANSFORMER":
            message = await self._call(node, "infer", chained(message))
        return message

    async def _children(self, node: Node, message: Reply) -> Reply:
        chosen = EVERY_CHILD
        if node.type == "ROUTER":
            chosen = route_of(await self._call(node, "route", message))
        if chosen == NO_CHILD:
            return message
        children = node.children if chosen == EVERY_CHILD else (child_at(node, chosen),)
        outcomes = await asyncio.gather(*(self.predict(one, message) for one in children), return_exceptions=True)
        replies = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            replies.append(outcome)
        if node.type == "COMBINER":
            return await self._call(node, "aggregate", Reply(200, b"[" + b",".join(one.body for one in replies) + b"]"))
        return replies[0]

    async def _call(self, node: Node, method: str, message: Reply) -> Reply:
        url = f"http://{HOST}:{node.port}/v2/models/{self._model or node.name}/{method}"
        headers = {**self._headers, "content-type": message.content_type}
        try:
            answer = await self._client.post(url, content=message.body, headers=headers)
        except httpx.HTTPError as error:
            raise Failed(_failure(f"Post {url}: {error or type(error).__name__}")) from error
        reply = Reply(answer.status_code, answer.content, answer.headers.get("content-type", ""))
        if reply.status != 200:
            raise Failed(reply)
        return reply


def chained(message: Reply) -> Reply:
    """Return the message as a request: `outputs` is renamed to `inputs`. Raises Failed."""
    try:
        document = json.loads(message.body)
    except ValueError as error:
        raise Failed(_failure(str(error))) from error
    if isinstance(document, dict) and "inputs" in document:
        return message
    if isinstance(document, dict) and "outputs" in document:
        document["inputs"] = document.pop("outputs")
        return message._replace(body=json.dumps(document).encode())
    raise Failed(_failure("Failed to convert kfserving response so it could be chained to new input"))


def route_of(reply: Reply) -> int:
    """Return the child's number from a router's answer, a bare `[n]`. Raises Failed."""
    try:
        routes = json.loads(reply.body)
    except ValueError:
        routes = None
    if not isinstance(routes, list) or not routes or type(routes[0]) is not int:
        raise Failed(
            _failure(f"the router's answer is no array of integers: {reply.body[:200].decode(errors='replace')}")
        )
    return routes[0]


def child_at(node: Node, number: int) -> Node:
    """Return the chosen child. Raises Failed, where the real one panics and closes the connection."""
    if not 0 <= number < len(node.children):
        raise Failed(_failure(f"router {node.name} chose child {number}; it has {len(node.children)}"))
    return node.children[number]


def _failure(reason: str) -> Reply:
    status: dict[str, Any] = {"code": 500, "info": reason, "status": "FAILURE"}
    return Reply(500, json.dumps({"status": status}).encode())


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, media_type="text/plain")
