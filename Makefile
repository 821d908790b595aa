# Two commands on a fresh machine: `make quickstart` and `make test`. Each builds .venv by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# More options: make quickstart ARGS="--out elsewhere --seed 1"
ARGS   ?=

# What draws Meta-World's pictures without a display (Debian and Ubuntu names).
GL_PACKAGES := libegl1 libegl-mesa0 libgl1-mesa-dri
GL_CHECK    := $(BIN)/python src/maskworld/worlds/metaworld/software_gl.py

.PHONY: quickstart quickstart-robot software-gl test test-fast lint clean
.DEFAULT_GOAL := quickstart

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-robot: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[robot]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.installed $(VENV)/.installed-robot $@

quickstart: $(VENV)/.installed  ## collect, train, dream and score in about eight minutes on two cores
	$(BIN)/maskworld quickstart worlddreamer $(ARGS)

quickstart-robot: $(VENV)/.installed-robot software-gl  ## Mask World Model in Meta-World
	$(BIN)/maskworld quickstart mask-world-model $(ARGS)

# Installs off-screen OpenGL where that takes no question (root, apt-get); elsewhere says what to do.
software-gl: | $(BIN)/python
	@$(GL_CHECK) || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { echo "installing $(GL_PACKAGES)"; apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      $(GL_PACKAGES) >/dev/null; } && $(GL_CHECK); }

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Without off-screen OpenGL the tests that draw are skipped, and say so; CI has them fail instead.
test: lint  ## everything CI runs
	-@$(MAKE) --no-print-directory software-gl
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-dev  ## without the tests marked slow
	$(BIN)/python -m pytest -m "not slow"

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
