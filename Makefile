# The commands of the README. Any Python from 3.11 on will do: make test PYTHON=python3.12
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not sys.version_info >= (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
IMAGES ?=
JOBS ?= 2

.PHONY: quickstart curation benchmarks benchmarks-gpu test test-lowest test-newest lint docs clean

quickstart: $(BIN)/.installed
	$(BIN)/mtpano quickstart $(IMAGES)

# Label, score and select on rendered rooms and streets, and what that is worth: docs/curation.md.
curation: $(BIN)/.installed
	$(BIN)/python benchmarks/curation.py --out runs/curation

# Where the time goes: benchmarks/README.md. A CPU takes under 20 minutes, a GPU under 8.
benchmarks: $(BIN)/.installed-test
	$(BIN)/python benchmarks/run_all.py cpu

benchmarks-gpu: $(BIN)/.installed-test
	$(BIN)/python benchmarks/run_all.py gpu

test: $(BIN)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(BIN)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p mtpano_zoo

docs: $(BIN)/.installed-test
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "The site is build/docs/index.html"

# The lowest releases that pyproject.toml allows, and the newest that the package index has, each in its own environment.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	$(VENV)-lowest/bin/python -m pytest -n $(JOBS) --dist worksteal

test-newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	$(VENV)-newest/bin/python -m pytest -n $(JOBS) --dist worksteal

# Installed again when pyproject.toml changes; the marker is written last, so an interrupted install is repeated.
$(BIN)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(BIN)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $(BIN)/.installed $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mtpano_zoo needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest build dist
