"""Bytes to queries and predictions to bytes: `/predict` JSON, V2 JSON, V2 protobuf, error bodies.

May import `prediction` and every room below it. `predict_json.py`, `v2.py` and `v2_json.py` import no framework.
"""
