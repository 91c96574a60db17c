"""What runs in the pod: an MLServer runtime that serves one tabular model over REST and gRPC.

The rooms in import order. A room imports only rooms on the lines above its own:

    schema, errors
    contract, settings, metrics
    model         the model on disk and in memory
    features      the online feature store
    prediction    query -> prediction, without a transport
    protocol      bytes <-> queries
    network       sockets, TLS, tokens, ASGI basics
    runtime       the MLServer runtime
    loaded_models, seldon_component
    rest, grpc    the listeners
    server        the MLServer subclass, the process, the supervisor

Nothing here imports handoff, rollout, local_seldon, benchmarks or image.
"""
