"""How good a model is on held-out rows, and whether it is better than the champion; imports nothing that serves."""
