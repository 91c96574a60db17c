"""Runs a SeldonDeployment on this machine: one server process per replica, Caddy in front."""
