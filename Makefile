# `make quickstart` trains a small model on scikit-learn's digits; `make test` runs every check.
# Both make .venv first. Another interpreter: rm -rf .venv; make PYTHON=python3.13 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint typecheck slow ray clean

help:
	@echo "make quickstart   train on the bundled digits and draw the result (no data download)"
	@echo "make test         linter, type checker and the quick tests"
	@echo "make lint | typecheck | slow   one part of it, or the slow tests"
	@echo "make ray          install Ray, and test the sweep engine that needs it"
	@echo "make clean        remove caches and build products (runs/ and .venv stay)"

quickstart: $(STAMP)
	$(BIN)/python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart

test: lint typecheck
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not ray"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)
	$(BIN)/mypy

slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not ray"

ray: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[ray]'
	$(BIN)/python -m pytest -m ray

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is missing or older than Python 3.11:" \
	    "name a newer one, as in 'make PYTHON=python3.12 $(firstword $(MAKECMDGOALS))'" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@
