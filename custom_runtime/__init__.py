"""What runs in the pod: an MLServer runtime that serves one tabular model over REST and gRPC.

Rooms, from the lowest to the highest; a room imports only what stands before it:
contract, schema, settings, errors, metrics -> model -> features -> prediction -> protocol -> network -> runtime,
loaded_models -> rest, grpc -> server. Nothing here imports handoff, rollout, local_seldon or benchmarks.
"""
