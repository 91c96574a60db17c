"""Where the counts come from: Prometheus, or the predictors' own metrics endpoints.

May import `plan`, `analysis` and every room below them, and no target.
"""
