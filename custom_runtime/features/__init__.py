"""The online feature store: a port, and its SQLite, Redis and in-memory adapters.

Imports `model` and the root modules.
"""
