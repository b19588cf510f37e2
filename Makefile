# make quickstart   a virtual environment, vitscale in it, and a real scaling study on this machine
# make test         the same environment; lint, types and all tests but the slow ones (under 20 minutes on 2 cores)
# make test-slow    the slow tests: further Ray clusters, network namespaces, kills, browsers (the marker `slow`; 20 minutes more)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --no-loadscope-reorder

.PHONY: quickstart test test-slow check install clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vitscale needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/python -m orchestrator.study studies/quickstart.yaml

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

clean:
	rm -rf $(VENV) runs
