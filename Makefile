# One virtual environment, made by whichever target needs it first; `make help` lists the targets.
#
#   PYTHON       interpreter that makes the environment (3.11 or newer)
#   VENV         where the environment lives
#   CONSTRAINTS  pip constraints; empty lets pip choose, which on Linux gives the CUDA build of torch.
#                Use another VENV with it: an environment keeps the torch it has.
#   TORCH_INDEX  PyTorch's index of CPU builds, where pip would otherwise take the CUDA build; asked for torch alone
#   JOBS         test processes, one thread each

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/cpu.txt
TORCH_INDEX ?=
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(addprefix -c ,$(CONSTRAINTS))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)
# The environment is made anew when the dependencies or the choice of constraints change, not at every call.
STAMP := $(VENV)/installed-$(or $(notdir $(CONSTRAINTS)),unconstrained)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-gpu lint types format docs bench hooks clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '%-10s %s\n' "$$name" "$$text"; done

env: $(STAMP)  ## create the environment

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'oskar needs Python 3.11 or newer. Fix: make $(MAKECMDGOALS) PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
# torch first and alone, so that only torch is looked up in a second index.
	$(if $(TORCH_INDEX),$(PIP) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) torch)
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## pretrain and probe on synthetic people, then write report.html
	$(BIN)/oskar demo

test: $(STAMP)  ## the fast tests
	$(PYTEST)

test-slow: $(STAMP)  ## the tests that take minutes
	$(PYTEST) -m 'slow and not gpu'

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

format: $(STAMP)  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build/site: the documentation, which opens from the disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## every benchmark, one after the other
	set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

hooks:  ## run lint and types before every commit, without the pre-commit program
	@hook="$$(git rev-parse --git-path hooks)/pre-commit"; mkdir -p "$$(dirname "$$hook")"; \
	if [ -e "$$hook" ]; then echo "$$hook exists already; left as it is" >&2; exit 1; fi; \
	printf '#!/bin/sh\nexec make --no-print-directory lint types\n' > "$$hook"; chmod +x "$$hook"; echo "wrote $$hook"

clean:  ## remove the environment and the tools' caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build oskar.egg-info
