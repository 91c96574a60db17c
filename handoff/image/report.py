"""What a person reads about the image: docs/image.md, written from what was measured."""

from __future__ import annotations

from handoff.image.proof import Proof

PREAMBLE = """# The image: how big, and why

Written by `make image-test` from the image that it built and ran; do not edit. The base is made with debootstrap where
no registry can be reached; `python:3.12-slim-bookworm`, the Dockerfile's default, differs from it by a few megabytes.

The image holds the `serve` extra as `requirements/image.txt` locks it. `requirements/image-overrides.txt` says what is
left out and why: XGBoost's GPU code, and what only MLServer's command line imports. So `mlserver start` is not to be
had in the container; its command is `python scripts/serve.py`. The build also drops test suites, ONNX Runtime's model
conversion tools and the second documentation page. Bytecode is compiled in the build, because the running container
cannot write it: a tenth of the size, for a start without compiling.
"""


def render(proof: Proof) -> str:
    """Return the Markdown page of a proof."""
    lines = [PREAMBLE, f"**{proof.size_bytes / 1e6:.0f} MB** in all, uncompressed. The ten largest parts:\n"]
    lines += ["| part | MB | why it is there |", "|---|--:|---|"]
    lines += [f"| {part.name} | {part.size_bytes / 1e6:.0f} | {part.reason} |" for part in proof.parts]
    rest = proof.size_bytes - sum(part.size_bytes for part in proof.parts)
    lines += [f"| everything else | {rest / 1e6:.0f} | |", "", "What was seen when it ran:\n"]
    lines += ["| model | scored by | ready after | exit code after SIGTERM |", "|---|---|--:|--:|"]
    lines += [f"| {run.model} | {run.scorer} | {run.ready_s:.1f} s | {run.exit_code} |" for run in proof.runs]
    lines += [
        "",
        f"It ran as user {proof.user}, found no compiler and no pip, and could write to "
        f"{', '.join(f'`{path}`' for path in proof.writable)} and nowhere else.",
    ]
    return "\n".join(lines) + "\n"
