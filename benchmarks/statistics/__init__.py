"""Simulated rollouts that hold the promises of the statistics: worlds, their matrix, its page and its plot.

May import rollout.analysis, which judges them.
"""
