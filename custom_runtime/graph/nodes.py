"""The nodes `join` (COMBINER) and `route` (ROUTER) as MLServer runtimes with the custom routes that the executor calls.

Seldon's executor posts the array of the branches' V2 responses, in the graph's order, to `/v2/models/<node>/aggregate`,
and the message as it is to `/v2/models/<node>/route`, whose answer is a bare `[n]`. MLServer has neither. The executor
calls a combiner only when every branch has answered with 200, and passes a node's error on to the caller as it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.handlers import custom_handler
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse
from starlette.requests import Request
from starlette.responses import Response

from custom_runtime.errors import BadRequest
from custom_runtime.graph.joining import JoinParameters, combine, read_stack
from custom_runtime.graph.parameters import read_parameters
from custom_runtime.graph.routing import Rewards, RouteParameters, choose
from custom_runtime.graph.tensors import read_branch
from custom_runtime.protocol.mlserver_messages import body_of, respond
from custom_runtime.settings import ServingSettings


class JoinNode(MLModel):  # type: ignore[misc]
    """Combines the responses of its children."""

    def __init__(self, settings: ModelSettings) -> None:
        self.parameters = read_parameters(JoinParameters, settings)
        self._stack = None if self.parameters.model is None else read_stack(self.parameters.model)
        self._limit_bytes = ServingSettings().max_body_bytes
        super().__init__(settings)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Refuse: a combiner is called at its own route."""
        raise InferenceError(f"{self.name} is a combiner; POST the responses to /v2/models/{self.name}/aggregate")

    @custom_handler(rest_path="/v2/models/{node}/aggregate")  # type: ignore[untyped-decorator]
    async def aggregate(self, request: Request) -> Response:
        """Join the responses of the children."""
        return await respond(_answer(request, self._limit_bytes, self._join), request.url.path)

    async def _join(self, responses: Any) -> dict[str, Any]:
        if not isinstance(responses, list) or not responses:
            raise BadRequest("the body is no array of V2 responses; Seldon's executor sends one for a combiner")
        branches = [read_branch(response, position) for position, response in enumerate(responses)]
        scores, missing = combine(branches, self.parameters, self._stack)
        answer: dict[str, Any] = {
            "model_name": self.name,
            "id": next((one["id"] for one in responses if isinstance(one, Mapping) and one.get("id")), None),
            "outputs": [
                {
                    "name": self.parameters.output,
                    "datatype": "FP64",
                    "shape": list(scores.shape),
                    "data": scores.ravel().tolist(),
                }
            ],
        }
        if missing:
            answer["parameters"] = {"missing_branches": ", ".join(missing)}
        return {key: value for key, value in answer.items() if value is not None}


class RouteNode(MLModel):  # type: ignore[misc]
    """Chooses a child."""

    def __init__(self, settings: ModelSettings) -> None:
        self.parameters = read_parameters(RouteParameters, settings)
        rewards = self.parameters.rewards
        self._rewards = None if rewards is None else Rewards(rewards, self.parameters.children)
        self._random = random.Random()  # noqa: S311 (a share of the traffic, no secret)
        self._limit_bytes = ServingSettings().max_body_bytes
        super().__init__(settings)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Refuse: a router is called at its own route."""
        raise InferenceError(f"{self.name} is a router; POST the message to /v2/models/{self.name}/route")

    @custom_handler(rest_path="/v2/models/{node}/route")  # type: ignore[untyped-decorator]
    async def route(self, request: Request) -> Response:
        """Answer `[n]`, the number of the child."""
        return await respond(_answer(request, self._limit_bytes, self._choose), request.url.path)

    async def _choose(self, message: Any) -> list[int]:
        counts = {} if self._rewards is None else self._rewards.refresh()
        return [choose(message, self.parameters, counts, self._random)]


async def _answer(request: Request, limit_bytes: int, work: Callable[[Any], Awaitable[Any]]) -> bytes:
    """Return what `work` makes of a JSON body, as JSON. Raises BadRequest, or what `work` raises."""
    body = await body_of(request, limit_bytes)
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON ({error})") from error
    return json.dumps(await work(payload)).encode()
