"""Where the counts come from: Prometheus, or the predictors themselves. Imports `analysis` for its values."""
