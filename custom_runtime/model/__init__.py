"""The model on disk and in memory: feature encoding, the bundle, scoring.

May import `contract`, `schema`, `settings`, `metrics` and `errors`.
"""
