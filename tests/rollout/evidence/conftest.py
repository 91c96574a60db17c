from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TypeVar

import pytest

from rollout.evidence.source import Source
from tests.support.metric_processes import Exporter, Prometheus

S = TypeVar("S", bound=Source)


@pytest.fixture
def keep() -> Iterator[Callable[[S], S]]:
    """Closes the sources given to it when the test ends."""
    with ExitStack() as stack:
        yield lambda source: stack.enter_context(closing(source))


@pytest.fixture
def pod() -> Iterator[Callable[..., Exporter]]:
    """Starts pods of a predictor, and ends them all."""
    started: list[Exporter] = []

    def start(predictor: str, port: int = 0) -> Exporter:
        started.append(Exporter(predictor, port))
        return started[-1]

    yield start
    for exporter in started:
        exporter.kill()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), ports=12)
    yield running
    running.stop()
