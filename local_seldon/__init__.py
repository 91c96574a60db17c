"""Runs a SeldonDeployment on this machine: one server process per replica, Envoy in front, an operator behind."""
