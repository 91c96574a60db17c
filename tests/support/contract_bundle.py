"""Makes what a server of the active contract needs: `python tests/support/contract_bundle.py DIR`.

Writes DIR/bundle, DIR/features.db (where the contract has a key) and DIR/expected.npz: rows float32 [n, WIDTH], and
what the fitted scikit-learn model itself answers, float64 [n, columns].
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from custom_runtime.active import CONTRACT
from custom_runtime.features.adapters import open_store
from custom_runtime.model.bundle import write_bundle
from custom_runtime.model.encoding import WIDTH, Matrix, decode_row
from handoff.conversion.convert import answers_of, convert, target_of
from handoff.conversion.inputs import match_signature
from handoff.conversion.parity import compare
from handoff.quality.drift import ROLE, build_profile

ROWS = 200


def drawn_rows() -> Matrix:
    random = np.random.default_rng(1)
    rows = np.empty((ROWS, WIDTH), dtype=np.float32)
    for place, feature in enumerate(CONTRACT.features):
        if feature.is_category:
            rows[:, place] = random.integers(len(feature.codes), size=ROWS)
            continue
        values = random.uniform(feature.minimum, feature.maximum, size=ROWS)
        rows[:, place] = values if feature.kind == "number" else np.round(values)
        if feature.nullable:
            rows[::5, place] = np.nan
    return rows


def fitted(rows: Matrix) -> Any:
    sums = np.nan_to_num(rows / [max(feature.maximum, 1.0) for feature in CONTRACT.features]).sum(axis=1)
    if CONTRACT.task.kind == "regression":
        truth = np.column_stack([sums * 100 - 10, sums * 100, sums * 100 + 20])
        return make_pipeline(SimpleImputer(), LinearRegression()).fit(rows, truth)
    places = np.digitize(sums, np.quantile(sums, [1 / 3, 2 / 3]))
    labels = np.array(CONTRACT.task.classes)[places]
    return HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5).fit(rows, labels)


def main(directory: Path) -> None:
    rows = drawn_rows()
    model = fitted(rows)
    target = target_of(CONTRACT)
    inputs = match_signature([(feature.name, "float") for feature in CONTRACT.features], CONTRACT.features, uri="test")
    graph = convert(model, inputs, target, width=WIDTH, nullable=True).onnx
    expected = answers_of(model, inputs, target, rows)
    profile = build_profile(CONTRACT.fingerprint, CONTRACT.features, rows, expected, task=CONTRACT.task)
    write_bundle(
        directory / "bundle",
        {"onnx": graph, ROLE: profile.model_dump_json().encode()},
        name=CONTRACT.name,
        version="3",
        run_id="",
        source="test",
        flavor="sklearn",
        defaults=decode_row(rows[1]),
        parity=compare(graph, expected, rows, relative=target.kind == "regression"),
    )
    np.savez(directory / "expected.npz", rows=rows, answers=expected)
    if CONTRACT.key is not None:
        store = open_store(f"sqlite:///{directory / 'features.db'}")
        asyncio.run(store.put([f"plot-{number}" for number in range(ROWS)], rows, updated_at=1.0))
        asyncio.run(store.close())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
