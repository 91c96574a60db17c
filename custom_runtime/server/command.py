"""The command of the pod: `python -m custom_runtime.server`, and scripts/serve.py in the image.

It needs this package alone; `churn-serving serve` adds the preparation of a model.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from custom_runtime.errors import StartupError

MODELS = Path(__file__).resolve().parents[2] / "model-settings" / "churn"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; return the exit code. arguments: None for those of this process."""
    parser = argparse.ArgumentParser(
        prog="python -m custom_runtime.server",
        description="Serve the model over REST and gRPC, in the foreground, until SIGTERM or Ctrl-C.\n\n"
        "Exit code 0 after a signal, 1 when the model, the feature store or a port is not available (one line says "
        "why).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Ports: MLSERVER_HTTP_PORT (8080), MLSERVER_GRPC_PORT (8081), MLSERVER_METRICS_PORT (8082).\n"
        "Everything else is a SERVING_* variable of custom_runtime/settings.py.\n\n"
        "Example:\n  SERVING_MISSING_KEY=default python -m custom_runtime.server --workers 2",
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of models")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the ports")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; allowed: 1 or more")
    _end_at_once_on_ctrl_c()
    try:
        # Seconds of imports that --help does not need. They read the contract.
        if options.workers > 1:
            from custom_runtime.server.supervisor import supervise

            worker = [sys.executable, "-m", "custom_runtime.server", "--models", str(options.models)]
            return supervise(worker, workers=options.workers)
        from custom_runtime.server.process import run

        return run(options.models)
    except StartupError as error:
        print(f"churn-serving cannot start: {error}", file=sys.stderr)
        return 1


def _end_at_once_on_ctrl_c() -> None:
    """Let SIGINT end the process, as SIGTERM does, until the server handles it: Python's exception is a traceback.

    Until then nothing is served. A SIGINT that the caller ignores stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
