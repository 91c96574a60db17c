"""The online feature store: the port in `store.py`, and its SQLite, Redis and in-memory adapters.

May import `model`, `contract`, `schema`, `settings`, `metrics` and `errors`. Only `redis.py` and `redis_link.py` import
the package redis.
"""
