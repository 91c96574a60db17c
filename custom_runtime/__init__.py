"""The MLServer runtime that serves the churn model: contract, features, scoring, REST and gRPC."""
