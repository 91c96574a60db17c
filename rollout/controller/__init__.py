"""Drives every rollout of a cluster from a pod of its own, so that none ends with the pipeline that began it.

Only `operator.py` imports kopf. Imports `engine` and `evidence`.
"""
