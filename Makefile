# make quickstart | test | bench | lint. Each target builds what it needs of .venv first; nothing has to be installed by hand.
#
#   PYTHON       the interpreter .venv is made from (default: python3.11, else python3)
#   TORCH_INDEX  a package index to take torch from, e.g. one with CPU-only or CUDA builds (default: pip's own)
#   PYTEST_ARGS  arguments for pytest (default: two workers, one test file at a time each, the longest file first)

PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || command -v python3)
TORCH_INDEX ?=
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
TORCH := $(shell grep '^torch==' constraints.txt)
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test bench lint types clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart  corpus, training, pruning and a report in one go on a CPU, into runs/quickstart"
	@echo "make test        lint, types, then every test this machine can run"
	@echo "make bench       ours against straightforward torch, on this machine, in under 5 minutes"
	@echo "make lint        ruff: rules and formatting"
	@echo "make types       pyright on the package"
	@echo "make clean       remove .venv, caches and build outputs (runs/ stays)"

quickstart: $(RUNTIME)
	@$(BIN)/sparse-circuits quickstart --out runs/quickstart

test: lint types
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(RUNTIME)
	@$(BIN)/sparse-circuits bench

lint: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEV)
	@$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first, alone and at its exact version: a resolver that sees it as a mere dependency may fetch another
# build of it (gigabytes of CUDA libraries) than the one TORCH_INDEX or the local configuration asks for.
$(RUNTIME): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or newer, or pass PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is older than 3.11: pass PYTHON=...")'
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing $(TORCH) (the large one)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@echo "installing sparse-circuits"
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "installing the tools for tests, lint and types"
	@$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@
