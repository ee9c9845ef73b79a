# Verbs of the repository; `make help` lists them. CI runs the same ones (.ci/run).
# What is installed is remembered by stamp files in $(VENV), so a second call of a verb starts at once.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
TOOLS := $(VENV)/tools
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# The first interpreter that is new enough; `make PYTHON=/path/to/python …` overrides it.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=
# Tests wait more than they compute. What measures time is marked `alone` and runs before the others, by itself.
TEST_WORKERS ?= 2
NOTHING_CHOSEN := 5
BENCH_ARGS ?=
# ruff does not walk through links: the two folders that are linked into serve_rt are named.
LINTED := serve_rt serve_rt/proxy serve_rt/agents tests bench
# A stub compiled with this version can be imported with every protobuf runtime we allow (5.29 and newer).
GRPC_TOOLS := grpcio-tools==1.71.0

# The dashboard is tested in a real browser. Where it cannot be installed those tests skip, and say so.
BROWSER := chromium

.PHONY: help venv install run test lint format types unit bench protos test-gpu clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "serve_rt needs Python 3.11 or newer: none found; say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/examples: pyproject.toml | $(STAMPS)/venv
	$(PIP) install -q -e ".[examples]"
	@touch $@

$(STAMPS)/develop: pyproject.toml | $(STAMPS)/venv
	$(PIP) install -q -e ".[examples,fastapi,test,lint]"
	@touch $@ $(STAMPS)/examples

$(STAMPS)/tools: Makefile | $(STAMPS)/venv
	$(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q --disable-pip-version-check "$(GRPC_TOOLS)" "setuptools<80"
	@touch $@

$(STAMPS)/browser: | $(STAMPS)/venv
	@if ! command -v chromium >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq || true; apt-get install -y -qq --no-install-recommends $(BROWSER) >/dev/null || true; \
		else echo "for the tests in a browser: apt install $(BROWSER)"; fi; fi
	@touch $@

venv: $(STAMPS)/venv ## make the virtual environment (.venv)

install: $(STAMPS)/examples ## install serve_rt and what its examples need

run: $(STAMPS)/examples ## serve a real sentence-embedding model on http://127.0.0.1:8000 (Ctrl-C stops everything)
	@exec $(BIN)/serve run serve_rt.examples.embed:app

test: lint types unit ## everything that must hold: lint, types, and all tests

unit: $(STAMPS)/develop $(STAMPS)/tools $(STAMPS)/browser ## the tests without lint and types (make unit PYTEST_ARGS="-k router")
	$(BIN)/python -m pytest -m "alone and not chaos" $(PYTEST_ARGS) || [ $$? -eq $(NOTHING_CHOSEN) ]
	$(BIN)/python -m pytest -m "not alone and not chaos" -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

chaos: $(STAMPS)/develop ## the long tests: minutes of faults under load, many simulation seeds
	$(BIN)/python -m pytest -m chaos $(PYTEST_ARGS)

lint: $(STAMPS)/develop ## ruff: rules and format
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)

format: $(STAMPS)/develop ## let ruff repair what it can
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

types: $(STAMPS)/develop ## mypy, strict, over the source, the tests and the bench
	$(BIN)/mypy

bench: $(STAMPS)/develop ## measure and print a table of ratios (BENCH_ARGS="--quick"; peers: see bench/README.md)
	$(BIN)/python -m bench.run $(BENCH_ARGS)

protos: $(STAMPS)/tools ## compile protos/ into serve_rt/pb
	@out=$$(mktemp -d) && trap 'rm -r "$$out"' EXIT && \
	$(TOOLS)/bin/python -m grpc_tools.protoc -I protos --python_out="$$out" --pyi_out="$$out" protos/serve_rt/v1/*.proto && \
	cp "$$out"/serve_rt/v1/*_pb2.py "$$out"/serve_rt/v1/*_pb2.pyi serve_rt/pb/

test-gpu: $(STAMPS)/develop ## tests that need an NVIDIA GPU (skipped with a message elsewhere)
	$(BIN)/python -m pytest -m gpu -rs tests/gpu $(PYTEST_ARGS)

clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find serve_rt proxy agents tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
