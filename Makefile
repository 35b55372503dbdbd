# Every target sets up .venv by itself and reuses it; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

search: $(READY) ## distil the digits, rank 50 ConvNets on ten images, write a report (ARGS="--candidates 100" for other flags)
	@$(BIN)/proxynas search $(ARGS)

test: lint ## ruff, mypy --strict and pytest
	$(BIN)/pytest -n logical --dist loadgroup $(ARGS)

lint: $(READY) ## ruff and mypy --strict only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p proxynas
	$(BIN)/mypy $(wildcard experiments/*.py)

fuzz: $(READY) ## mutate every kind of input by chance (ARGS="--cases 5000 --seed 7")
	@$(BIN)/python -m tests.fuzz $(ARGS)

chaos: $(READY) ## kill commands at random moments, and run them again (ARGS="--kills 100 --seed 7")
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: $(READY) ## measure what the defaults are chosen by, as ratios within one run
	@$(BIN)/python -m proxynas.cli.bench $(ARGS)

clean: ## remove the environment, caches and build leftovers (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Built again when what it is built from changes; half an installation is never taken for a whole one.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "proxynas needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@echo "setting up $(VENV) (once; PyTorch is large)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev,nasbench201]'
	@$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true # on all cores, where pip takes one
	@touch $@

.PHONY: help search test lint fuzz chaos bench clean
