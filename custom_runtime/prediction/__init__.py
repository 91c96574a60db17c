"""From a query to its prediction: coalescing, lookup, assembly, scoring. No transport and no MLServer.

Imports `features` and `model`.
"""
