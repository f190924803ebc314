# `make demo` and `make test` do everything on a fresh machine; both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs bench bench-quick faults fuzz lint types install install-dev install-docs clean

demo: install
	$(BIN)/fewclip demo --out demo

test: install-dev lint types
	$(BIN)/python -m pytest

fuzz: install-dev
	$(BIN)/python tests/support/fuzz.py --minutes $(or $(MINUTES),10)

bench: install-dev
	$(BIN)/python benchmarks/bench.py

bench-quick: install-dev
	$(BIN)/python benchmarks/bench.py --quick

docs: install-docs
	$(BIN)/mkdocs build --strict

# kill -9 at random moments, full disks, two writers: docs/reliability.md
faults: install-dev
	$(BIN)/python benchmarks/faults.py --times 100 --json faults.json

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
install-docs: $(VENV)/.installed-docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) demo bench site .pytest_cache .mypy_cache .ruff_cache .hypothesis fuzz-crashes
