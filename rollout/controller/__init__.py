"""A pod that drives every rollout of a cluster, with kopf; serves their pages and metrics.

It may import every room but cli. Only operator.py imports kopf.
"""
