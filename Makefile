# Everything runs in .venv, made on first use from the pinned constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_DIR ?= dovetail-demo
# One more than there are cores, because tests wait for the servers that they start.
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint check bench format constraints wheel clean
help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $(READY)

demo: $(READY)  ## Run the whole main job on a small model
	$(BIN)/dovetail demo --directory $(DEMO_DIR)

test: $(READY)  ## Run the tests
	$(PYTEST)

lint: $(READY)  ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint  ## All of lint, and the tests with coverage
	$(PYTEST) --cov --cov-report=term

bench: $(READY)  ## Measure against peers, in one run
	$(BIN)/python -m benchmarks

format: $(READY)  ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints:  ## Generate constraints.txt anew from pyproject.toml
	$(PYTHON) scripts/make_constraints.py

wheel: $(READY)  ## Build the wheel into dist/
	$(BIN)/python -m build --no-isolation --wheel

clean:  ## Remove what was built
	rm -rf build dist dovetail-demo $(VENV)
