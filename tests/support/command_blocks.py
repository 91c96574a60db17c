"""The command blocks of the documents: found, parsed, and sorted into what runs here and what cannot.

A command block is a fenced block of the language `sh` or `python`. Every one is run by tests/instructions, except those
that CANNOT_RUN lists with a reason. A block that ends in one of FOREGROUND serves until another one does, or the
document ends: a reader has it in a terminal of its own.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import ROOT

FENCE = re.compile(r"^( *)```(sh|python)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# What later blocks of the document rely on: variables that are set, an environment that is activated.
KEPT = re.compile(r"""^(?:export )?\w+=(?:"[^"]*"|'[^']*'|\S*) *(?:#.*)?$|^\. \S+ *(?:#.*)?$""")

# (document, text that the block contains) -> why it cannot run in a test. Keep it short: nobody tries these.
CANNOT_RUN = {
    ("README.md", "make canary-demo"): "takes six minutes; tests/local_seldon runs the demo's parts",
    ("CONTRIBUTING.md", "make setup"): "installs from a package index, and runs this very test suite",
    ("SECURITY.md", "cosign verify"): "cosign, and a signature that a release workflow wrote",
    ("docs/tutorials/cluster.md", "make kind-up"): "docker, kind and helm; tests/seldon runs DRY_RUN=1",
    ("docs/tutorials/cluster.md", "make kind-down"): "docker and kind; tests/seldon runs DRY_RUN=1",
    ("docs/tutorials/cluster.md", "kubectl --namespace"): "a port-forward needs pods that listen",
    ("docs/tutorials/cluster.md", "load-test"): "the cluster of make kind-up; e2e.yml runs it",
    ("docs/tutorials/cluster.md", "rollout run"): "the cluster of make kind-up; the runbook's blocks run it",
    ("docs/tutorials/cluster.md", "rollout undo"): "the cluster of make kind-up; the runbook's blocks run it",
    ("docs/runbook.md", "make image-controller"): "builds an image; tests/rollout/controller run what it starts",
    ("docs/runbook.md", "helm install"): "helm, its charts, a cluster; `make kind-up` does it at the tested versions",
}  # fmt: skip

# What serves until it is interrupted -> the URL that answers when it is ready.
FOREGROUND = {
    "make serve": "http://localhost:8080/v2/health/ready",
    "churn-serving serve": "http://localhost:8080/v2/health/ready",
    "churn-serving load-test --url http://localhost:8080/seldon/": "http://localhost:8080/seldon/default/churn/v2/health/ready",
}


@dataclass(frozen=True)
class Block:
    """One block: the document's path in the repository, the line of its first command, and the commands."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def ready_url(self) -> str | None:
        """What answers when the block serves; None for a block that ends by itself."""
        if self.language != "sh":
            return None
        last = self.text.replace("\\\n", " ").strip().splitlines()[-1]
        words = re.sub(r"^(\w+=\S+ +)+", "", last)
        return next((url for start, url in FOREGROUND.items() if words.startswith(start)), None)

    @property
    def kept(self) -> list[str]:
        """The lines that later blocks of the document rely on."""
        return [line for line in self.text.splitlines() if self.language == "sh" and KEPT.match(line)]

    @property
    def reason(self) -> str | None:
        """Why it cannot run here; None for a block that runs."""
        return next(
            (why for (name, part), why in CANNOT_RUN.items() if name == self.document and part in self.text), None
        )


def documents() -> list[Path]:
    """Return every Markdown file that people read."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(ROOT / name for name in listed.stdout.split() if (ROOT / name).exists())


def blocks_of(document: Path) -> list[Block]:
    """Return the command blocks of a document, in its order."""
    text = document.read_text()
    name = str(document.relative_to(ROOT))
    found = []
    for match in FENCE.finditer(text):
        indent = len(match[1])
        lines = [line[indent:] if line.startswith(" " * indent) else line for line in match[3].splitlines()]
        found.append(Block(name, text.count("\n", 0, match.start(3)) + 1, match[2], "\n".join(lines)))
    return found


def every_block() -> list[Block]:
    """Return the command blocks of all documents."""
    return [block for document in documents() for block in blocks_of(document)]
