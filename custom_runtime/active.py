"""The contract of this process: the module that SERVING_CONTRACT names, or `contract.py`.

SERVING_CONTRACT is a module on sys.path (`examples.credit.contract`) or a path (`examples/credit/contract.py`), whose
`CONTRACT` is a `schema.Contract`. It is read once, when this module is imported: features, outputs and the row's layout
are constants of the process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from custom_runtime.errors import StartupError
from custom_runtime.schema import Contract

VARIABLE = "SERVING_CONTRACT"
DEFAULT = "custom_runtime.contract"
_ALLOWED = "allowed: a module on sys.path or a .py file, whose CONTRACT is a custom_runtime.schema.Contract"


def load_contract(named: str) -> Contract:
    """Return the contract of a module or file. Raises StartupError."""
    module = _module(named)
    contract = getattr(module, "CONTRACT", None)
    if not isinstance(contract, Contract):
        raise StartupError(f"{VARIABLE} is {named!r}, whose CONTRACT is {type(contract).__name__}; {_ALLOWED}")
    return contract


def _module(named: str) -> ModuleType:
    path = Path(named)
    if path.suffix != ".py" and "/" not in named:
        try:
            return importlib.import_module(named)
        except ModuleNotFoundError as error:
            # An installed command does not have the working directory on sys.path: the same name as a path below it.
            path = Path(named.replace(".", "/") + ".py")
            if not named.startswith(str(error.name)) or not path.is_file():
                raise StartupError(f"{VARIABLE} is {named!r}: {error}; {_ALLOWED}") from error
        except TypeError as error:
            raise StartupError(f"{VARIABLE} is {named!r}: {error}") from error
    return _from_file(path, named)


def _from_file(path: Path, named: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("serving_contract", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise StartupError(f"{VARIABLE} is {named!r}, which is no file; {_ALLOWED}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Pydantic looks annotations up there
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, TypeError) as error:
        raise StartupError(f"{VARIABLE} is {named!r}: {error}") from error
    return module


CONTRACT = load_contract(os.environ.get(VARIABLE) or DEFAULT)
