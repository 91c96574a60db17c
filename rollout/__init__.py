"""What runs in the pipeline: progressive delivery for SeldonDeployments.

Rooms, from the lowest to the highest; a room imports only what stands before it:
errors, clock -> manifest -> analysis -> plan -> evidence, targets -> engine -> reporting -> cli. Nothing here imports
custom_runtime, handoff, local_seldon or benchmarks.
"""
