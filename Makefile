# `make demo` and `make test` do everything on a fresh machine; both build .venv first.
# `make test-quick` is for between changes: lint, types and the tests of the core, in under two minutes.
PYTHON ?= python3
VENV := .venv
# processes that share the tests; 0: all in one
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: demo test test-quick mutants pins docs bench bench-quick faults fuzz lint types install install-dev install-docs clean

demo: install
	$(BIN)/fewclip demo --out demo

test: install-dev lint types
	$(BIN)/python -m pytest -rs -n $(JOBS) --dist loadfile --no-loadscope-reorder

# the rooms below the commands
test-quick: install-dev lint types
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not browser and not ray" tests/house tests/methods tests/training tests/data tests/clip

# deliberate mistakes in src, each of which a test must catch
mutants: install-dev
	$(BIN)/python tests/mutate.py

# constraints.txt with every Python that pyproject.toml claims
pins: install-dev
	$(BIN)/python tests/support/check_pins.py

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
