# Two commands on a fresh machine: `make quickstart` and `make test`. Each builds .venv by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# More options: make quickstart ARGS="--out elsewhere --seed 1"
ARGS   ?=

.PHONY: quickstart test test-fast lint clean
.DEFAULT_GOAL := quickstart

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.installed $@

quickstart: $(VENV)/.installed  ## collect, train, dream and score in about eight minutes on two cores
	$(BIN)/maskworld quickstart worlddreamer $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## everything CI runs
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-dev  ## without the tests marked slow
	$(BIN)/python -m pytest -m "not slow"

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
