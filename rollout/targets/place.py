"""Where a deployment lives, in the words of a command line: what a person has to type to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

STATE_ROOT: Final = Path("var/seldon")
"""Where `churn-serving local` keeps its deployments by default."""


@dataclass(frozen=True, slots=True)
class Place:
    """How a person's command reaches one deployment.

    options: of `churn-serving rollout`, with a space before each; empty where none are needed. trail: the command that
    shows the audit trail; empty: not known.
    """

    options: str = ""
    trail: str = ""

    @classmethod
    def in_cluster(cls, name: str, namespace: str = "", context: str = "") -> Place:
        """Return the place of a deployment in a cluster; without a namespace, that of the caller's context."""
        options = f" -n {namespace}" if namespace else ""
        options += f" --context {context}" if context else ""
        return cls(options, f"kubectl events{options} --for seldondeployment/{name}")

    @classmethod
    def on_this_machine(cls, directory: Path) -> Place:
        """Return the place of a deployment on this machine; directory: ROOT/NAMESPACE/NAME."""
        root, namespace = directory.parent.parent, directory.parent.name
        options = " --target local"
        options += "" if root == STATE_ROOT else f" --state {root}"
        options += "" if namespace == "default" else f" -n {namespace}"
        return cls(options, f"cat {directory / 'events.jsonl'}")


UNKNOWN: Final = Place()


@runtime_checkable
class Placed(Protocol):
    """A target that knows how a command line reaches it. Only what people read needs it."""

    @property
    def place(self) -> Place:
        """Return its place."""


def place_of(target: object) -> Place:
    """Return the place of a target; an empty one where the target does not know it."""
    return target.place if isinstance(target, Placed) else UNKNOWN
