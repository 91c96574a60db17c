"""Only the contract names its domain: no other code spells the model, its key, its output or one of its features.

Code is names, literals, comments and docstrings of every package, and the files that build and start it. A docstring
may end in an example of a command, which names a model.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from custom_runtime.contract import CONTRACT
from tests.support.programs import ROOT

PACKAGES = ("custom_runtime", "handoff", "rollout", "local_seldon", "benchmarks", "image", "commands", "scripts")
# The contract itself, the demo of this contract, and other servers that were written by hand for it.
ELSEWHERE = (
    "custom_runtime/contract.py",
    "local_seldon/demo/",
    "benchmarks/peers/",
    "benchmarks/compare/graph_hops.py",  # the manifests of the example graph, by their names
)
PROGRAM = re.compile(r"churn[-_]serving")  # this project's name
# A feature's name that is a word of this project too.
COMMON = {"contract"}
# (file, text): names that belong to other things than the model.
ALLOWED = {
    ("benchmarks/compare/servers.py", '"service:ChurnPredictor"'),  # a class of a hand-written peer
    ("custom_runtime/server/command.py", '"churn"'),  # the folder model-settings/churn
    ("Dockerfile", "COPY model-settings/churn model-settings/churn"),
    ("custom_runtime/settings.py", '"CHURN_"'),  # the prefix of earlier settings, which is refused
}


BUILD = ("Dockerfile", "Makefile", ".ci/run")


def spoken(source: str) -> Iterator[tuple[int, str]]:
    """Yield the names, literals, comments and docstrings of a module, up to a docstring's example."""
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                documentation |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
                prose = str(first.value.value).partition("Example:")[0]
                yield from ((first.lineno + number, line) for number, line in enumerate(prose.splitlines()))
    literals = {tokenize.NAME, tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in literals and token.start[0] not in documentation:
            yield token.start[0], token.string


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if not name.startswith(ELSEWHERE):
                yield name, file


def test_no_code_outside_the_contract_names_its_model_key_output_or_features() -> None:
    features = {feature.name for feature in CONTRACT.features} - COMMON
    names = {CONTRACT.name, CONTRACT.key or "", *features, *(o.name for o in CONTRACT.outputs if o.role != "source")}
    word = re.compile(rf"(?<![A-Za-z])({'|'.join(sorted(names, key=len, reverse=True))})", re.IGNORECASE)
    lines = [(name, line, text) for name, file in modules() for line, text in spoken(file.read_text())]
    for name in BUILD:
        lines += [(name, line, text) for line, text in enumerate((ROOT / name).read_text().splitlines(), 1)]
    found = [
        f"{name}:{line}: {text}"
        for name, line, text in lines
        if word.search(PROGRAM.sub("", text)) and (name, text) not in ALLOWED
    ]
    assert not found, "\n".join(found)


def test_the_search_finds_what_it_is_made_for() -> None:
    source = '"""churn\n\nExample:\nserve churn"""\nkey = "customer_id"\n# churn\nchurn_probability = 1\n'
    found = [(line, text) for line, text in spoken(source) if text and text.isprintable() and text not in "=1"]
    assert found == [
        (1, "churn"),
        (5, "key"),
        (5, '"customer_id"'),
        (6, "# churn"),
        (7, "churn_probability"),
    ]
