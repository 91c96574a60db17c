"""What runs before the pod: from data and registry to a bundle that can be served."""
