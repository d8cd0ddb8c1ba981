# The two commands of the README, and what they stand on. See BUILD.md.
#
#   make demo   trains the digits example; needs Python 3.11 or newer and a package index only
#   make test   linters, types and tests, as continuous integration runs them
#   make lint   the linters and types alone
#   make protos generates keras_soap/proto/ from protos/ again
#   make clean  removes the environment, what was generated, and what make demo left
#
# PYTHON chooses the interpreter: make demo PYTHON=/opt/python3.12/bin/python3

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test lint style types tests protos clean

VENV := .venv
BIN := $(VENV)/bin
DEMO_OUTPUT := out/digits

# The first that runs, since a name on the path may be a stub for a version that is not installed.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1 && echo $$python && break; done)

demo: $(VENV)/.installed-examples
	$(BIN)/python examples/digits.py --output_dir=$(DEMO_OUTPUT)

# Types, which keep one core busy for a minute, are checked while tests run.
test: style
	@$(MAKE) --no-print-directory --jobs=2 types tests

lint: style types

style: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.installed-test
	$(BIN)/pyright --pythonpath $(BIN)/python

# For two cores: tests of several hosts, which come first, leave most of one to the others.
tests: $(VENV)/.installed-test
	$(BIN)/pytest -n 3 --dist worksteal

# An editable install generates the protos; nothing else is installed again.
protos: $(VENV)/bin/python
	$(BIN)/pip install --quiet --no-deps --editable .

clean:
	rm -rf $(VENV) out build dist keras_soap/topologies keras_soap/proto/*_pb2.py keras_soap/proto/*_pb2.pyi
	rm -rf .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra, older than any file that decides what an install does.
$(VENV)/.installed-%: pyproject.toml hatch_build.py $(wildcard protos/*.proto) | $(VENV)/bin/python
	@echo "Installing keras_soap[$*] into $(VENV); the first time takes a few minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "keras_soap needs Python 3.11 or newer, and none was found." \
			"Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { \
		echo "PYTHON=$(PYTHON) is not Python 3.11 or newer ($$("$(PYTHON)" --version 2>&1))." \
			"Name one that is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) cannot make virtual environments." \
			"Install its venv module (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
