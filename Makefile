PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install site demo test attack lint fix package clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

# Remade whenever the dependencies change; one install serves demo and tests.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "unseen needs Python 3.11 or newer; call make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

install: $(VENV)/installed  ## make .venv and install the package in it

demo: install  ## train ZegCLIP on Doodles, score it, draw pictures into demo/
	$(BIN)/unseen demo --out demo

test: install lint  ## all checks and tests
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90

attack: install  ## hostile cases at length: kills, full disks, limits
	$(BIN)/python -m pytest tests/test_properties.py --hypothesis-profile attack
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m attack tests/hostile

lint: install  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package:  ## build dist/ afresh and check both archives
	rm -rf dist
	test -x $(VENV)/package/bin/python || $(PYTHON) -m venv $(VENV)/package
	$(VENV)/package/bin/python -m pip install --quiet --disable-pip-version-check \
		build twine check-wheel-contents
	$(VENV)/package/bin/python -m build
	$(VENV)/package/bin/twine check --strict dist/*
	$(VENV)/package/bin/check-wheel-contents dist/*.whl

site: install  ## build the site into docs/_build/html
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

clean:  ## remove what make and the demo wrote
	rm -rf $(VENV) demo dist docs/_build .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
