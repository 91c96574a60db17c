"""What every listener needs: sockets, TLS, tokens, slow clients, basic ASGI.

Imports `protocol` for error bodies.
"""
