# The two commands of the README. Any Python 3.11 or 3.12 will do: make test PYTHON=python3.12
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
IMAGES ?=
JOBS ?= 2

.PHONY: quickstart test lint clean

quickstart: $(BIN)/.installed
	$(BIN)/mtpano quickstart $(IMAGES)

test: $(BIN)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(BIN)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p mtpano_zoo

# Installed again when pyproject.toml changes; the marker is written last, so an interrupted install is repeated.
$(BIN)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(BIN)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $(BIN)/.installed $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mtpano_zoo needs Python 3.11 or 3.12; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist
