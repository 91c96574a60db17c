"""Where the counts come from: Prometheus, or the predictors' own metrics endpoints.

May import `analysis` and every room below it, and no target.
"""
