# Everything that is done with this checkout. `make` lists it.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.backfill-setup
PYTHON_DIRECTORIES := $(wildcard src tests bench examples skills)
TYPED_DIRECTORIES := $(wildcard src tests bench examples skills)

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help setup demo test test-all clients bench lint types walls check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv with everything pinned (once; again when the pins change)

$(STAMP): pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing requirements/dev.txt into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## a batch from upload to answers through the together SDK, on this machine
	@$(BIN)/python examples/demo.py

test: setup ## the tests, but for the slow ones
	@$(BIN)/python -m pytest -q -m "not slow"

test-all: setup ## all tests
	@$(BIN)/python -m pytest -q

clients: setup ## every client against a server, the slow ones too, and docs/clients.md from it
	@$(BIN)/python -m pytest -q tests/conformance --ignore tests/conformance/test_clients_table.py --write-clients-table

bench: setup ## the measurements
	@$(BIN)/python -m bench

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@echo "lint: ok"

types: setup ## mypy, strict
	@$(BIN)/mypy $(TYPED_DIRECTORIES)

walls: setup ## import-linter: which room may import which
	@$(BIN)/lint-imports --no-logo

check: lint types walls test ## all gates

format: setup ## ruff: format, and repair what can be repaired
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format --quiet

clean: ## remove .venv and what the tools left
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist src/*.egg-info
	@find $(PYTHON_DIRECTORIES) -name __pycache__ -type d -prune -exec rm -rf {} +
