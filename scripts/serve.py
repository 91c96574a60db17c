"""Serve the churn model over REST and gRPC, in the foreground, until SIGTERM or Ctrl-C.

Exit code 0 after a signal, 1 when the model, the feature store or a port is not to be had (one line says why).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Read the arguments, prepare when asked to, and serve."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Ports: MLSERVER_HTTP_PORT (8080), MLSERVER_GRPC_PORT (8081), MLSERVER_METRICS_PORT (8082).\n"
        "Everything else is a SERVING_* variable of custom_runtime/settings.py.\n\n"
        "example: SERVING_MISSING_CUSTOMER=default python scripts/serve.py --workers 2",
    )
    parser.add_argument("--models", type=Path, default=ROOT / "model-settings" / "churn", help="folder of models")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the ports")
    parser.add_argument("--prepare", action="store_true", help="first train, import and load features, where missing")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers is {arguments.workers}; allowed: 1 or more")
    if arguments.prepare:
        if not prepared():
            return 1
        # Training leaves hundreds of megabytes behind: serve as a program that never did.
        sys.stdout.flush()
        options = ["--models", str(arguments.models), "--workers", str(arguments.workers)]
        os.execv(sys.executable, [sys.executable, __file__, *options])  # noqa: S606 (no shell is wanted)
    if arguments.workers > 1:
        from custom_runtime.server.supervisor import supervise

        return supervise([sys.executable, __file__, "--models", str(arguments.models)], workers=arguments.workers)
    from custom_runtime.server.process import run  # seconds of imports that --help does not need

    return run(arguments.models)


def prepared() -> bool:
    """Train, import and load features where something is missing; on an error say it in one line and return False."""
    from custom_runtime.errors import StartupError  # the image, which never prepares, has no handoff
    from custom_runtime.settings import ServingSettings
    from handoff.errors import HandoffError
    from handoff.loading import ensure_loaded
    from handoff.prepare import prepare

    settings = ServingSettings()
    try:
        prepare(settings.bundle)
        ensure_loaded(settings.feature_store)
    except (HandoffError, StartupError) as error:
        print(f"churn-serving cannot prepare: {error}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
