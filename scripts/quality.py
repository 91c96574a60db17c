"""`churn-serving quality`, for pipelines that call it by this file."""

from commands.main import main

if __name__ == "__main__":
    main("quality")
