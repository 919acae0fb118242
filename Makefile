# Everything runs in .venv, which the first target that needs it creates: with uv where there is one, else with venv and pip.
PROFILE ?= quick
NOTEBOOKS ?=
CORPORA ?= fsdd
PYTHON ?= python3
BIN := .venv/bin
ifneq ($(CAPSLIB_DATA),)
export CAPSLIB_DATA := $(abspath $(CAPSLIB_DATA))
endif

.DEFAULT_GOAL := help
.PHONY: help setup reproduce report test data lab bench accept lock clean

help:  ## what the targets do
	@echo "make TARGET [PROFILE=quick|full] [NOTEBOOKS=\"01 02\"] [CAPSLIB_DATA=folder]"
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'

setup: .venv/.installed  ## create .venv with the exact versions of requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "capslib needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up .venv (once; torch is large, this takes some minutes)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(PYTHON) .venv && \
	  uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps -e . ; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ; \
	fi
	@touch $@

reproduce: .venv/.installed  ## run the notebooks, train for real, render reports/PROFILE
	@$(BIN)/python -m capslib reproduce --profile $(PROFILE) --notebooks "$(NOTEBOOKS)"

report: .venv/.installed  ## render reports/PROFILE from committed records, without training
	@$(BIN)/python -m capslib report --profile $(PROFILE) --notebooks "$(NOTEBOOKS)"

test: .venv/.installed  ## unit tests, style, and every notebook against its committed outputs
	@$(BIN)/python -m pytest
	@$(BIN)/python -m pytest --nbval notebooks

data: .venv/.installed  ## download the corpora in CORPORA (default fsdd), list what is available
	@$(BIN)/python -m capslib data --corpora "$(CORPORA)"

lab: .venv/.installed  ## open the notebooks
	@$(BIN)/python -m jupyterlab notebooks

bench: .venv/.installed  ## speed and memory, as ratios in one run
	@$(BIN)/python -m bench

accept: .venv/.installed  ## take this machine's quick records into git and execute the notebooks anew
	@$(BIN)/python -m capslib accept

lock:  ## resolve requirements.lock anew (needs uv)
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate --no-header -q -o requirements.lock

clean:  ## remove .venv, caches and reports/quick; recordings and committed reports stay
	@rm -rf .venv data/cache reports/quick build .pytest_cache .ruff_cache *.egg-info
