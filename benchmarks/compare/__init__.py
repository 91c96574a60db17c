"""This project and other servers measured in one run: servers, measurements, goals, and the document.

May import `benchmarks.load`, `programs` and `errors`, `custom_runtime` (contract, features, model) and `handoff`.
"""
