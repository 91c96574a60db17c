"""What the REST and gRPC listeners share: sockets, TLS, bearer tokens, limits for slow clients, basic ASGI.

May import `protocol` (for error bodies) and every room below it.
"""
