"""What runs before the pod: from data and a model registry to a bundle that can be served.

May import `custom_runtime.contract`, `schema`, `errors`, `model` and `features`, never the server. Only `registry.py`
imports MLflow.
"""
