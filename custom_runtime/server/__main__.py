"""`python -m custom_runtime.server`."""

import sys

from custom_runtime.server.command import main

sys.exit(main())
