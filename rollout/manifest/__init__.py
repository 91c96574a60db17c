"""SeldonDeployment manifests: typed values, checks, rendering, capacity.

May import `rollout.errors` and `rollout.clock`.
"""
