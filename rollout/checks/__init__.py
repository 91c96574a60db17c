"""What a step asks beside the counts: hooks, smoke requests, queries, pairs of answers. One module for each kind.

A check answers as a gate does, so the rules need not know its kind. May import `evidence`, `analysis` and `errors`.
"""
