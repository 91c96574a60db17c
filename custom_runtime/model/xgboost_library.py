"""XGBoost's own C library, without its Python package: TreeSHAP for one model file.

Importing the package brings scipy, and scikit-learn and pandas where they are installed: 219 MB and seconds of start-up
in a development environment. The library alone takes 30 MB and 5 ms, and ctypes releases the interpreter's lock, which
the event loop needs, while it computes (docs/adr/0020-explanations.md). The C API used here is documented and stable:
https://xgboost.readthedocs.io/en/stable/c.html
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CONTRIBUTIONS = b'{"type":2,"training":false,"iteration_begin":0,"iteration_end":0,"strict_shape":true}'
_MATRIX = b'{"missing":NaN,"nthread":1}'
_NAMES = {"linux": "libxgboost.so", "darwin": "libxgboost.dylib", "win32": "xgboost.dll"}


class LibraryError(Exception):
    """The library is not installed, or refused a call."""


class XgboostLibrary:
    """One loaded model. `contributions` is called by one thread at a time."""

    def __init__(self, model: bytes) -> None:
        self._library = _open()
        self._booster = ctypes.c_void_p()
        self._call("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self._booster))
        self._call("XGBoosterLoadModelFromBuffer", self._booster, model, ctypes.c_uint64(len(model)))
        self._call("XGBoosterSetParam", self._booster, b"nthread", b"1")

    def __del__(self) -> None:
        if getattr(self, "_booster", None):
            self._library.XGBoosterFree(self._booster)

    def contributions(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return SHAP values, float32 [n, m + 1] for float32 [n, m], C order; the last column is the base."""
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        described = {"data": [matrix.ctypes.data, True], "shape": matrix.shape, "typestr": "<f4", "version": 3}
        handle = ctypes.c_void_p()
        self._call("XGDMatrixCreateFromDense", json.dumps(described).encode(), _MATRIX, ctypes.byref(handle))
        try:
            shape, dimensions = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
            result = ctypes.POINTER(ctypes.c_float)()
            self._call(
                "XGBoosterPredictFromDMatrix", self._booster, handle, _CONTRIBUTIONS,
                ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(result),
            )  # fmt: skip
            rows, groups, columns = (int(shape[axis]) for axis in range(dimensions.value))
            if groups != 1:
                raise LibraryError(f"the model has {groups} outputs; allowed: one")
            # The library's memory is valid until the next call.
            return np.ctypeslib.as_array(result, shape=(rows, columns)).copy()
        finally:
            self._library.XGDMatrixFree(handle)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments) != 0:
            message = (self._library.XGBGetLastError() or b"").decode(errors="replace")
            raise LibraryError(f"{name} failed: {' '.join(message.split())[:200]}")


def _open() -> Any:
    found = importlib.util.find_spec("xgboost")  # finds it without importing it
    folders = [] if found is None else list(found.submodule_search_locations or ())
    path = next((file for folder in folders for file in _candidates(Path(folder)) if file.is_file()), None)
    if path is None:
        raise LibraryError("the package xgboost is not installed; run: pip install churn-serving[serve]")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded: {error}") from error
    library.XGBGetLastError.restype = ctypes.c_char_p
    return library


def _candidates(package: Path) -> list[Path]:
    return [package / "lib" / _NAMES.get(sys.platform, _NAMES["linux"])]
