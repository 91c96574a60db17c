"""The files that MLServer's own runtimes serve: raw feature vectors in, the same registered model's probabilities out.

The XGBoost file is the booster alone: that runtime loads it as a regressor, whose `predict` is the probability of
the positive class. The scikit-learn file is a pickle: serve it only when it comes from your own registry.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import joblib
from xgboost import XGBClassifier

from custom_runtime.contract import NAME

XGBOOST_FILE = f"{NAME}-xgboost.ubj"
SKLEARN_FILE = f"{NAME}-sklearn.joblib"


def write_stock(model: Any, directory: Path) -> Path:
    """Write the file of a fitted model in one rename and return its path."""
    if isinstance(model, XGBClassifier):
        name, content = XGBOOST_FILE, bytes(model.get_booster().save_raw("ubj"))
    else:
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        name, content = SKLEARN_FILE, buffer.getvalue()
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{name}.{os.getpid()}"
    temporary.write_bytes(content)
    return temporary.replace(directory / name)
