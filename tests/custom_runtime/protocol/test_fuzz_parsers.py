"""The parsers under a coverage-guided fuzzer, for a fixed number of runs from a corpus of good bodies."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import GUARD_S, ROOT

KEY = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
TEXT = {"name": "contract", "shape": [1, 1], "datatype": "BYTES", "data": [["One year"]]}
SEEDS = {
    "predict": [b'{"customer_id": 42}', b'{"customer_id": 42, "tenure_months": 1e1, "contract": "One year"}'],
    "v2": [json.dumps({"id": "a", "inputs": inputs}).encode() for inputs in ([KEY], [KEY, TEXT])],
    "proto": [
        b"\n\x05churn*\x1c\n\x0bcustomer_id\x12\x05INT64\x1a\x01\x01*\x03\x1a\x01*",
        b"\n\x05churn*\x17\n\x0bcustomer_id\x12\x05INT64\x1a\x01\x01:\x08*\0\0\0\0\0\0\0",
    ],
}
# Most of the grammar is read outside Python, where no coverage guides: its words help.
WORDS = """
"customer_id": "tenure_months": "contract": "inputs": "name": "shape": "datatype": "data": "id": "One year" "INT64"
"FP32" "BYTES" [[ ]] -1 1e400 9223372036854775807 NaN null true \\ud800
""".split()  # noqa: SIM905  (a table of words)
RUNS = {"predict": 30_000, "v2": 30_000, "proto": 30_000}


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pyproject.toml has atheris below Python 3.12 only")
@pytest.mark.parametrize("parser", SEEDS)
def test_a_parser_answers_whatever_the_bytes(parser: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[parser]):
        (corpus / str(number)).write_bytes(seed)
    dictionary = tmp_path / "dictionary"
    dictionary.write_text("\n".join(f'"{_escaped(word)}"' for word in WORDS))
    # Through a shell of its own: the kernel counts the memory of the process that forks, which may be a test worker of
    # more than a gigabyte, as the peak of the one that it starts.
    done = subprocess.run(
        [
            "/bin/sh", "-c", '"$@"; exit $?', "sh",
            sys.executable, "tests/custom_runtime/protocol/fuzz_parsers.py", parser, str(corpus), "-seed=20",
            f"-runs={RUNS[parser]}", "-max_total_time=20", "-max_len=4096", "-rss_limit_mb=1024",
            f"-artifact_prefix={tmp_path}/",
            f"-dict={dictionary}",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs in (\d+) second", done.stderr + done.stdout)
    assert runs, done.stderr[-2000:]
    print(f"{parser}: {runs[0]}")
    assert int(runs[1]) > 1_000
