"""Nodes of a Seldon inference graph: features (TRANSFORMER), join (COMBINER), route (ROUTER), branch (MODEL, guarded).

Each node is an MLServer runtime with its own server, which Seldon's executor calls. May import every room below
`runtime`, and mlserver.
"""
