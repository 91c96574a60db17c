"""From a query to its prediction: coalescing, feature lookup, row assembly, scoring. No transport and no MLServer.

May import `features`, `model` and the root modules below them.
"""
