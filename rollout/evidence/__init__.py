"""Where the counts come from."""
