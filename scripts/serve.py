"""Serve the model: `python -m custom_runtime.server`, the image's entry point. It needs only custom_runtime."""

import sys

from custom_runtime.server.command import main

if __name__ == "__main__":
    sys.exit(main())
