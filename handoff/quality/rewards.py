"""Labels as rewards of a router: what each child of the node `route` has earned, as the file that it reads.

A labelled prediction adds 1 - loss to its child's `good` and the loss to its `bad`, where the loss is the row's Brier
score, 0 to 1. So a child is rewarded for good probabilities, not only for being on the right side of 0.5. A child is
named by the records' model: MLServer's name of the node, as in the graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from custom_runtime.active import CONTRACT
from custom_runtime.graph.routing import Counts
from handoff.errors import DataError
from handoff.evaluation.measures import losses
from handoff.quality.measuring import answers_of, truth_of


def reward_counts(labelled: pd.DataFrame, children: Collection[str] = ()) -> dict[str, Counts]:
    """Return the counts of each child; one without labels has none. children: all of them; empty: those with records.

    Raises DataError: a regression (its loss has no greatest value), or records of a model that is no child.
    """
    task = CONTRACT.task.kind
    if task == "regression":
        raise DataError("rewards need classes: the loss of a regression has no greatest value")
    models = set(labelled["model"])
    if children and (unknown := sorted(models - set(children))):
        raise DataError(f"records of {', '.join(unknown)}, which is no child; allowed: {', '.join(children)}")
    counts = dict.fromkeys(children, Counts())
    loss = losses(task, truth_of(labelled), answers_of(labelled))["brier"]
    if task == "multiclass":
        loss = loss / 2  # a certain wrong answer costs 2 in the sum over the classes
    for model in sorted(models):
        own = loss[(labelled["model"] == model).to_numpy()]
        counts[model] = Counts(good=float((1 - own).sum()), bad=float(own.sum()))
    return counts


def write_rewards(counts: dict[str, Counts], path: Path) -> None:
    """Write the file in one rename: a router reads it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({name: one.model_dump() for name, one in counts.items()}, indent=2) + "\n")
    temporary.replace(path)
