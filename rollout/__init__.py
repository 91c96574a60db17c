"""What runs in the pipeline: progressive delivery for SeldonDeployments."""
