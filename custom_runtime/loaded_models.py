"""The models that are loaded in this process: how the fast routes and the servicer find a runtime by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from custom_runtime.errors import NotReady, UnknownModel, quoted

if TYPE_CHECKING:  # importing it takes MLServer, whose protobuf types no other client may share a process with
    from custom_runtime.runtime import TabularRuntime


class LoadedModels:
    """Name -> runtimes, newest first. During a reload the old runtime serves until the new one is ready."""

    def __init__(self) -> None:
        self._runtimes: dict[str, list[TabularRuntime]] = {}
        # Models of MLServer's other runtimes, which its own routes answer.
        self._foreign: dict[str, int] = {}
        self.draining = False

    def add(self, runtime: TabularRuntime) -> None:
        """Add a runtime that MLServer is about to load; ready runtimes of the same name serve until it is ready."""
        serving = [other for other in self._runtimes.get(runtime.name, []) if other.ready]
        self._runtimes[runtime.name] = [runtime, *serving]

    def remove(self, runtime: TabularRuntime) -> None:
        """Remove a runtime that MLServer has unloaded."""
        remaining = [other for other in self._runtimes.get(runtime.name, []) if other is not runtime]
        if remaining:
            self._runtimes[runtime.name] = remaining
        else:
            self._runtimes.pop(runtime.name, None)

    def add_foreign(self, name: str) -> None:
        """Take the name of a model that another runtime serves; once more for each of its versions."""
        self._foreign[name] = self._foreign.get(name, 0) + 1

    def remove_foreign(self, name: str) -> None:
        """Forget one of them."""
        self._foreign[name] = self._foreign.get(name, 1) - 1

    def is_foreign(self, name: str | None) -> bool:
        """Whether MLServer's own routes answer for this name."""
        return name is not None and name not in self._runtimes and self._foreign.get(name, 0) > 0

    def names(self) -> list[str]:
        """Return the names of all models, ready or not."""
        return list(self._runtimes)

    def find(self, name: str | None = None, version: str | None = None) -> TabularRuntime:
        """Return the newest ready runtime of a name (None: the only model). Raises UnknownModel or NotReady."""
        if name is None:
            candidates = next(iter(self._runtimes.values()), [])
        elif name in self._runtimes:
            candidates = self._runtimes[name]
        else:
            raise UnknownModel(
                f"model {quoted(name)} is not served here; served: {', '.join(self._runtimes) or 'none'}"
            )
        for runtime in candidates:
            if runtime.ready and (not version or runtime.version == version):
                return runtime
        if version and not any(runtime.version == version for runtime in candidates):
            versions = ", ".join(str(runtime.version) for runtime in candidates)
            raise UnknownModel(f"version {quoted(version)} of model {name!r} is not served here; served: {versions}")
        raise NotReady("the model is loading; retry later")

    def check_ready(self, name: str | None = None, version: str | None = None) -> None:
        """Raise NotReady while loading or draining. Requests that still arrive while draining are answered."""
        if self.draining:
            raise NotReady("the server is draining; send new requests elsewhere")
        if self.is_foreign(name) or (name is None and not self._runtimes and any(self._foreign.values())):
            return  # MLServer knows more about them
        self.find(name, version)
