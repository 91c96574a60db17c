"""The gRPC listener and its servicer. Imports `network`, `protocol` and the runtime."""
