# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup serve stock test lint format lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# uv installs from the hashed lock in seconds; pip, from its own hashed lock, only fetches uv. --no-deps: the lock is
# complete, and xgboost's wheel would otherwise ask for a CUDA library that no CPU loads.
$(STAMP): requirements/dev.txt requirements/bootstrap.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

setup: $(STAMP) ## Make the virtual environment from the hashed locks

serve: $(STAMP) ## Train, import, load features and serve; whatever exists is not repeated
	@$(BIN)/python scripts/serve.py --prepare

test: $(STAMP) ## Run the whole suite
	$(BIN)/pytest

lint: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## Renew the hashed locks under requirements/
	UV=$(BIN)/uv requirements/lock.sh

clean: ## Remove everything that was generated (environment, models, features)
	rm -rf $(VENV) var build dist *.egg-info
