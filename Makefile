# `make` alone lists what there is.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run lint check test bench report api lab clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## everything that a fresh machine lacks, in .venv; nothing else

$(READY): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "This needs Python 3.11 or newer; %s is %d.%d. Say which one to use: make PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev]'
	$(BIN)/lakehouse setup
	@touch $(READY)

run: setup  ## set-up, then the whole pipeline on sample input
	$(BIN)/lakehouse run --sample --params parameters/default.yml

lint: setup  ## set-up, then lint, types, spelling and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint  ## lint, then the tests that need no engine
	$(BIN)/python -m pytest -m 'not engine'

test: setup  ## set-up, also of Spark, then every test
	$(BIN)/lakehouse setup --spark
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: setup  ## what loads, checks, the explorer and the API cost, side by side with the least that would do
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev,bench]'
	$(BIN)/lakehouse setup --spark
	$(BIN)/python tests/bench --rounds 3 --picture lakehouse_lib/engines/loads.svg
	$(BIN)/python tests/bench --rows 5000000 --sides native,duckdb,polars
	$(BIN)/python tests/bench --sample --rows 200000
	$(BIN)/python tests/bench --checks --rows 2000000 --rounds 3
	$(BIN)/python tests/bench --browse --rows 5000000
	$(BIN)/python tests/bench --layout --rows 5000000
	$(BIN)/python tests/bench --api --rows 5000000
	$(BIN)/python tests/bench --mix --rows 200000

report: setup  ## the health report as one HTML page
	$(BIN)/lakehouse report

api: setup  ## the REST API on http://127.0.0.1:8888
	$(BIN)/lakehouse api

lab: setup  ## JupyterLab attached to the warm engine
	$(BIN)/lakehouse lab

clean:  ## remove the environment and the sample lakehouse
	rm -rf .venv data .pytest_cache .hypothesis .ruff_cache .mypy_cache *.egg-info
