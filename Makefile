# `make bench` and `make test` do all the set-up they need in .venv; run again, they start at once.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: bench test check browser clean

bench: $(VENV)/.default
	$(BIN)/uadctl bench specs/demo.toml

# A file of tests a core, one thread each: many small tests gain nothing from a second thread and wait for one another.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What drives a browser in the tests of the report page. They skip without it, and without a Chromium.
browser: $(VENV)/.all
	$(PIP) install -e '.[browser]'

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.default: pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) with the default dependencies; the first time takes minutes."
	$(PIP) install -e .
	@touch $@

$(VENV)/.all: $(VENV)/.default
	@echo "Setting up $(VENV) with every extra."
	$(PIP) install -e '.[all,test]'
	@touch $@
