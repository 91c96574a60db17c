# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.dev
# `make serve` installs less than development needs; once there is a development environment, it uses that one.
SERVING := $(if $(wildcard $(STAMP)),$(STAMP),$(VENV)/.quickstart)

.PHONY: help setup setup-train setup-deploy serve test coverage test-slow lint format lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# One rule for each lock: $(VENV)/.dev from requirements/dev.txt, .quickstart, .train and .deploy from theirs. The last one
# that was made is what the environment holds. uv installs from the hashed lock in seconds; pip, from its own hashed lock,
# only fetches uv. --no-deps: the lock is complete, and xgboost's wheel would otherwise ask for a CUDA library that no CPU
# loads.
$(VENV)/.%: requirements/%.txt requirements/bootstrap.txt pyproject.toml
	@echo "making the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing uv, with hashes"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@echo "installing the $$(grep -cE '^[a-zA-Z0-9]' $<) packages of $<, with hashes: 1 minute the first time, then seconds"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/bootstrap.txt $<
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.dev $(VENV)/.quickstart $(VENV)/.train $(VENV)/.deploy
	@touch $@

setup: $(STAMP) ## Make the virtual environment for development from the hashed locks

# For a pipeline that holds credentials: only what the import, or the rollout, needs.
setup-train: $(VENV)/.train
setup-deploy: $(VENV)/.deploy

# EXAMPLE=credit serves that folder of examples/; its bundle, table and features are under var/credit/.
serve: $(SERVING) ## Train, import, load features and serve; whatever exists is not repeated. EXAMPLE= for another domain
ifdef EXAMPLE
	@SERVING_CONTRACT=examples/$(EXAMPLE)/contract.py SERVING_BUNDLE=var/$(EXAMPLE)/bundle \
		SERVING_FEATURE_STORE=sqlite:///var/$(EXAMPLE)/features.db \
		$(BIN)/churn-serving serve --prepare --train examples/$(EXAMPLE)/train.py --data var/$(EXAMPLE)/$(EXAMPLE).csv
else
	@$(BIN)/churn-serving serve --prepare
endif

test: $(STAMP) ## Run the suite, but for what takes long; TESTS=tests/rollout for a part of it
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow and not matrix" $(TESTS)

coverage: $(STAMP) ## The same, with the coverage of each module; fails below the floor in pyproject.toml
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow and not matrix" --cov --cov-report=term

# One after the other: they put servers under load and measure them.
test-slow: $(STAMP) ## Run the rest: the image, floods, faults under load, a soak
	$(BIN)/pytest -m slow

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
	UV=$(BIN)/uv requirements/peers/lock.sh

.PHONY: reference docs screenshots

screenshots: $(STAMP) ## Make the pictures of docs/pictures from the running software (eight minutes; needs chromium)
	$(BIN)/python docs/screenshots.py

reference: $(STAMP) ## Write docs/reference from the code
	$(BIN)/python -m commands.reference docs/reference

# An environment of its own: mkdocs imports nothing of this project.
DOCS := $(VENV)-docs
$(DOCS)/.made: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	touch $@

docs: $(DOCS)/.made ## Build the documentation as a site in var/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

clean: ## Remove everything that was generated (environment, models, features)
	rm -rf $(VENV) var build dist *.egg-info

# docker where its daemon answers, else buildah; BUNDLE= leaves the model to a mount.
BUILDER = $(shell docker info >/dev/null 2>&1 && echo docker || command -v buildah)
# The tag is the model version of var/bundle, as seldon/base names it.
BUNDLED = $(shell sed -nE 's/.*"version": *"([^"]+)".*/\1/p' var/bundle/bundle.json 2>/dev/null)
IMAGE ?= churn-serving:$(or $(BUNDLED),latest)
# Such as --build-arg BASE_IMAGE=... where another base is wanted, and --tls-verify=false for buildah and a registry without TLS.
BUILD_OPTIONS ?=
PUSH_OPTIONS ?=
# The version has one place: pyproject.toml.
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
BUNDLE ?= $(patsubst %/bundle.json,%,$(wildcard var/bundle/bundle.json))

LOCK ?= image.txt
TARGET ?=
CONTROLLER_IMAGE ?= rollout-controller:latest
QUALITY_IMAGE ?= model-quality:latest
.PHONY: image push image-seldon image-controller image-quality image-test version

version:
	@echo $(VERSION)

image: ## Build the container image, with the model of var/bundle baked in where there is one
	BUILDAH_FORMAT=docker $(or $(BUILDER),$(error start docker, or run: apt-get install buildah)) build --tag $(IMAGE) --build-arg BUNDLE=$(BUNDLE) \
		$(if $(TARGET),--target $(TARGET)) --build-arg LOCK=$(LOCK) --build-arg REVISION=$(shell git rev-parse HEAD) \
		--build-arg VERSION=$(VERSION) $(BUILD_OPTIONS) .

push: ## Push the image: IMAGE=registry.example/churn-serving:1
	$(or $(BUILDER),$(error start docker, or run: apt-get install buildah)) push $(PUSH_OPTIONS) $(IMAGE)

image-seldon: ## The same for Seldon's own protocol (seldon/overlays/seldon-protocol)
	$(MAKE) image IMAGE=churn-serving-seldon:latest LOCK=seldon.txt

image-controller: ## The image of seldon/controller, which drives rollouts; it holds no model and no server
	$(MAKE) image IMAGE=$(CONTROLLER_IMAGE) LOCK=controller.txt TARGET=controller BUNDLE=

image-quality: ## The image of seldon/quality, which measures quality once a day; it holds the bundle for its training profile
	$(MAKE) image IMAGE=$(QUALITY_IMAGE) LOCK=quality.txt TARGET=quality

image-test: $(STAMP) ## Build the image where no registry can be reached, run it, and get a prediction from it
	$(BIN)/churn-serving image-test --report docs/image.md

.PHONY: audit

audit: $(STAMP) ## Look the pod's packages up in the advisory database; what cannot be looked up is a failure
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements/serve.txt

.PHONY: kind-up kind-down

kind-up: $(STAMP) ## A kind cluster with Istio, Prometheus, Seldon Core and version 1 (10 minutes); DRY_RUN=1 prints the steps
	@seldon/kind/up.sh

kind-down: ## Delete it
	@seldon/kind/down.sh

.PHONY: canary-demo

canary-demo: $(STAMP) ## Promote a good version and roll back two bad ones, under load, on this machine
	$(BIN)/churn-serving demo

.PHONY: bench bench-quick statistics

statistics: $(STAMP) ## Simulate rollouts in every world of docs/statistics.md, and write its tables and plot (3 minutes)
	$(BIN)/python -m benchmarks.statistics

bench: $(STAMP) ## Measure this project beside its peers on two idle cores (15 minutes); writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-quick: $(STAMP) ## One short round that only checks that the benchmark works
	$(BIN)/python -m benchmarks --quick

.PHONY: soak

soak: $(STAMP) ## Ten minutes of mixed load with faults at random; SOAK_SECONDS= for less; a plot in var/soak/
	$(BIN)/churn-serving soak
