"""Where a SeldonDeployment lives: `target.py` is the port, its siblings are the adapters. Imports `manifest`."""
