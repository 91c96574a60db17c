"""Bytes to queries and predictions to bytes: `/predict` JSON, V2 JSON, V2 protobuf, errors. Imports `prediction`."""
