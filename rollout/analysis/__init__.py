"""Counts in, verdicts out: gates, sequential tests, drift. Pure: no clock, no socket, no cluster.

May import `manifest`, `clock` and `errors`.
"""
