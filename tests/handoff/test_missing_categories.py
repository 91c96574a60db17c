"""A blank cell of a category that may be missing is loaded, recorded, evaluated and profiled as missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.programs import GUARD_S, ROOT

# The contract is one for each process.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import decode_row
from custom_runtime.records.events import _encoded
from custom_runtime.records.record import RecordBuilder, RecordOptions, SampledRows
from handoff.conversion.convert import target_of
from handoff.dataset import read_dataset
from handoff.evaluation.evaluating import evaluate
from handoff.quality.drift import build_profile, drift_of
from handoff.training import train

table = read_dataset(Path(sys.argv[1]))
trained = train(table, "sklearn", floor={})
answers = np.full((len(table.rows), 3), 1 / 3)
profile = build_profile(CONTRACT.fingerprint, CONTRACT.features, table.rows, answers, task=CONTRACT.task)
evaluation = evaluate(
    target_of(CONTRACT), CONTRACT.features, table.rows, table.labels.astype(int), answers, model="m", source="s"
)
size = len(table.rows)
sampled = SampledRows(np.zeros(size), np.zeros(size), table.keys.tolist(), [None] * size, [None] * size, [0] * size,
                      [0] * size, [0.5] * size, np.zeros(size), table.rows)
records = RecordBuilder(RecordOptions("trees", "v1", "1", with_features=True)).build(sampled)
features = records.column("features").to_pylist()
print(json.dumps({
    "codes": table.rows[:4, 3].tolist(),
    "decoded": [decode_row(row)["soil"] for row in table.rows[:4]],
    "recorded": [row["soil"] for row in features[:4]],
    "events": [_encoded(row)[3] for row in features[:4]],
    "counts": profile.inputs[3].counts,
    "drift": drift_of(profile.inputs[3], np.array([row["soil"] for row in features], dtype=object)).psi,
    "segments": [[s.category, s.rows] for s in evaluation.segments if s.feature == "soil"],
    "profile": [list(p.counts) + [p.numbers["missing"]] for p in evaluation.profile if p.feature == "soil"],
    "default": trained.defaults["soil"],
}))
"""


def test_a_blank_category_stays_missing_from_the_table_to_records_and_reports(tmp_path: Path) -> None:
    lines = ["tag,height,rings,planted,soil,kind"]
    soils = ("clay", "", "sand", "")
    kinds = ("oak", "pine", "birch")
    lines += [f"t-{n},{n % 90},{n % 50},{n % 2 == 0},{soils[n % 4]},{kinds[n % 3]}" for n in range(60)]
    table = tmp_path / "trees.csv"
    table.write_text("\n".join(lines) + "\n")
    environment = os.environ | {"SERVING_CONTRACT": str(ROOT / "tests/support/contract_of_trees.py")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(table)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "codes": [0, 2, 1, 2],
        "decoded": ["clay", None, "sand", None],
        "recorded": ["clay", None, "sand", None],
        "events": [0, 2, 1, 2],
        "counts": [15, 15, 30],
        "drift": 0,
        "segments": [["clay", 15], ["sand", 15], ["(missing)", 30]],
        "profile": [[15, 15, 30]],
        "default": None,
    }
