"""Runs a SeldonDeployment on this machine: a process per replica, Envoy in front, an operator that reconciles.

May import `rollout.manifest`, `rollout.targets` and `rollout.errors`.
"""
