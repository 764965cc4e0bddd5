# Two commands: `make run` and `make test`. Both set up what they need.
PIPELINE ?= fashion
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV := 0.13.9
DOWNLOAD := 1.5 GB
unexport PYTHONDONTWRITEBYTECODE # each process would compile the packages anew: twice the time of every import

.PHONY: run test up down setup lock lint gpu-check bench-engines bench-input bench-train bench-abuse bench-serving
run: .venv/ready ## data -> trained -> optimised -> deployed
	@$(BIN)/python -m flows.cli run $(PIPELINE)

test: .venv/ready ## the test suite
	@$(BIN)/python -m flows.cli setup
	@$(BIN)/python -m pytest

gpu-check: .venv/ready ## the tests that need an NVIDIA GPU; writes benchmarks/results/gpu-check.json
	@$(BIN)/python benchmarks/gpu_check.py

up: .venv/ready ## start Prefect, its worker with the schedules, MLflow's UI and Triton
	@$(BIN)/python -m flows.cli up

down: ## stop what `make up` or `make run` started
	@$(BIN)/python -m flows.cli down

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@[ -e $@ ] || echo "First run: downloads about $(DOWNLOAD), then 16 steps; about 5 minutes on 2 cores."
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV) 2>/dev/null
	@UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

lock: ## pin every package anew
	@UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --quiet \
	  --no-emit-find-links --no-emit-index-url --no-header --no-annotate | sed -E 's/^(torch==[0-9.]+)\+cpu/\1/' > requirements.lock

lint: .venv/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench-engines: .venv/ready ## every engine on one network, beside eager torch and the CPU's limit
	@$(BIN)/python benchmarks/engines.py

bench-abuse: .venv/ready ## what others notice while somebody abuses the door; wants a `make run` before
	@$(BIN)/python benchmarks/abuse.py

bench-input: .venv/ready ## photographs a second of every way to feed a network; wants `engineworks add clothing`, fetched
	@$(BIN)/python benchmarks/input.py

bench-train: .venv/ready ## time to the target beside stock scripts, Lightning beside a bare loop, growth; wants a `make run` before
	@$(BIN)/python benchmarks/training.py

bench-serving: .venv/ready ## what serving costs and holds, beside other servers; wants a `make run` before
	@$(BIN)/python -m flows.cli up
	@$(BIN)/python benchmarks/serving.py
