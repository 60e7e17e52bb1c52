# `make quickstart` trains a small model on scikit-learn's digits; `make test` runs the linter,
# the type checker, and the quick tests.
# Both make the environment first. A second one, of another Python, stands beside it:
#   make VENV=.venv-3.13 PYTHON=python3.13 test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# uv installs in a third of pip's time; pip, which has a configuration of its own, stands in for it.
install = $(BIN)/uv pip install --python $(BIN)/python --no-deps $(1) \
  || $(PIP) install --no-compile --no-deps $(1)
# One target of $(VENV) for what runs, one for the tools on top.
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs

PYTEST := $(BIN)/python -m pytest
QUICK := -n auto --dist loadfile -m "not slow and not ray and not trackers"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test library lint typecheck slow ray trackers mutation kills package docs \
  lock clean reproduce-gpu

help:
	@echo "make quickstart   train on the bundled digits and draw the result (no data download)"
	@echo "make test         linter, type checker and the quick tests"
	@echo "make library      the library's tests alone"
	@echo "make lint | typecheck | slow   one part of it, or the slow tests"
	@echo "make mutation     put mistakes into a copy of the code, and see that tests notice"
	@echo "make kills        kill runs and sweeps at random, and check that nothing is lost by it"
	@echo "make trackers     install wandb and mlflow, and test the trackers that need them"
	@echo "make ray          install Ray, and test the sweep engine that needs it"
	@echo "make docs         build the documentation in build/docs, executing its code"
	@echo "make package      build sdist and wheel, and check the wheel where nothing else is installed"
	@echo "make lock         write the requirements files anew, from pyproject.toml"
	@echo "make reproduce-gpu   plan both tables and train a slice of them on a GPU (docs/devices.md)"
	@echo "make clean        remove caches and build products (runs/ and .venv stay)"

quickstart: $(RUN)
	$(BIN)/python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart

test: lint typecheck
	$(PYTEST) $(QUICK)

library: $(DEV)
	$(PYTEST) $(QUICK) gumbel tests/gumbel tests/test_compiler.py tests/test_packaging.py

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(DEV)
	$(BIN)/mypy

slow: $(DEV)
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= $(PYTEST) -m "slow and not ray and not trackers"

mutation: $(DEV)
	$(BIN)/python -m scripts.mutate

ray: $(DEV)
	$(PIP) install -e '.[ray]'
	$(PYTEST) -m ray

trackers: $(DEV)
	$(PIP) install -e '.[wandb,mlflow]'
	$(PYTEST) -m trackers

# The wheel is built from the sdist. -I keeps the checkout off the path.
package: | $(VENV)/.created
	rm -rf build/package
	$(BIN)/python -m venv build/package/tools
	build/package/tools/bin/python -m pip --disable-pip-version-check install --quiet build
	build/package/tools/bin/python -m build --outdir build/package/dist .
	$(BIN)/python -m venv build/package/clean
	build/package/clean/bin/python -m pip --disable-pip-version-check install --quiet \
	  build/package/dist/*.whl
	build/package/clean/bin/python -I .ci/check_wheel.py

# Warnings are errors. Pages are executed afresh, two at a time, on a kernel of this environment.
docs: $(DOCS)
	rm -rf build/docs
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m sphinx -W --keep-going -q -j 2 -b html docs build/docs
	@echo "documentation: build/docs/index.html"

# One file for Python 3.11 and all later ones: pip takes the lines whose markers fit.
LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock"
lock: $(VENV)/.created
	$(LOCK) --extra experiments -o requirements.txt
	$(LOCK) --extra dev -c requirements.txt -o requirements-dev.txt
	$(LOCK) --extra docs -c requirements.txt -o requirements-docs.txt

kills: $(RUN)
	$(BIN)/python -m scripts.kill_trial --kills=200

# In the environment that is active: a machine that is lent for minutes may have no other.
TARGETS ?= table1 table2
PRESET ?= full
SLICE ?= 540
WORKDIR ?= runs/gpu-$(PRESET)
RESULTS ?= $(WORKDIR)/results
RATE ?=
REPRODUCE = $(PYTHON) -m experiments.reproduce $$table --preset=$(PRESET) --engine=vmap \
  --workdir=$(WORKDIR) --results=$(RESULTS) --slice=$$(left)
reproduce-gpu:
	@worst=0; end=$$(( $$(date +%s) + $(SLICE) )); \
	left() { n=$$(( end - $$(date +%s) )); echo $$(( n > 0 ? n : 1 )); }; \
	for table in $(TARGETS); do \
	  [ $$(date +%s) -lt $$end ] || exit 75; \
	  $(REPRODUCE) --plan $(if $(RATE),--steps_per_second=$(RATE)) && $(REPRODUCE) --thin; \
	  status=$$?; case $$status in 0) ;; 1) worst=1 ;; *) exit $$status ;; esac; \
	done; exit $$worst  # 1: some runs failed, which must not keep the next table waiting

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	rm -rf docs/estimators docs/reproduction/results.md
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is missing or older than Python 3.11:" \
	    "name a newer one, as in 'make PYTHON=python3.12 $(firstword $(MAKECMDGOALS))'" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	-$(PIP) install --quiet uv==0.13.9
	@touch $@

# The lock files are complete, hence --no-deps. The library is installed as editable; experiments/
# and the rest are found from the checkout.
$(RUN): requirements.txt pyproject.toml | $(VENV)/.created
	$(call install,--require-hashes -r requirements.txt)
	$(call install,-e .)
	@touch $@

# The tests start many processes, which otherwise compile the packages' sources anew where Python
# may not write bytecode.
$(DEV): requirements-dev.txt $(RUN)
	$(call install,--require-hashes -r requirements-dev.txt)
	-$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1
	@touch $@

$(DOCS): requirements-docs.txt $(RUN)
	$(call install,--require-hashes -r requirements-docs.txt)
	@touch $@
