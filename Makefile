# Everything that is done with this checkout. `make` lists it.

PYTHON ?= python3
BIN := .venv/bin
# A process for each core, and the tests of a file in one: they share their servers. tests/conftest.py orders the files.
SIDE_BY_SIDE := --numprocesses logical --dist loadfile --no-loadscope-reorder
STAMP := .venv/.backfill-setup
PYTHON_DIRECTORIES := $(wildcard src tests bench examples skills)
TYPED_DIRECTORIES := $(wildcard src tests bench examples skills)

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help setup demo test test-scale test-all test-browser clients bench lint types walls check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

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

# The browser's tests by themselves: an event loop runs in their process all the time, which others cannot bear.
test: setup ## the tests, but for the slow ones; those in a browser only where there is one
	@$(BIN)/python -m pytest -q -m "not slow and not scale" --ignore tests/browser $(SIDE_BY_SIDE)
	@if { command -v chromium || command -v chromium-browser; } >/dev/null && command -v npm >/dev/null; \
		then $(BIN)/python -m pytest -q tests/browser; \
		else echo "left out: the tests in a browser, since there is no Chromium; make test-browser installs one"; fi

test-scale: setup ## what several workers share: the same tests on PostgreSQL and on an S3 server, which are started for it
	@$(BIN)/python -m pytest -q -m "scale and not slow" --ignore tests/browser $(SIDE_BY_SIDE)

test-all: test test-scale ## all tests
	@$(BIN)/python -m pytest -q -m slow

test-browser: setup ## the pages in a real Chromium, which is installed (apt, as root) where there is none
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { echo "installing chromium"; \
		apt-get install -qq -y --no-install-recommends chromium >/dev/null 2>&1 || { apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends chromium >/dev/null; }; }
	@BACKFILL_NEEDS_CHROMIUM=1 $(BIN)/python -m pytest -q tests/browser $(SIDE_BY_SIDE)

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

check: lint types walls test test-scale ## all gates

format: setup ## ruff: format, and repair what can be repaired
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format --quiet

clean: ## remove .venv and what the tools left
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist src/*.egg-info
	@find $(PYTHON_DIRECTORIES) -name __pycache__ -type d -prune -exec rm -rf {} +
