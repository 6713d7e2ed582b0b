# Everything a person types. Needs git, make and Python >= 3.11; makes its own virtual environment in .venv.
# `make interop` needs node and npm as well, and Chromium, which it installs where it may (Debian, as root).

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
LIBRARIES := $(VENV)-libraries
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
LOCKED := pyproject.toml constraints.txt
# The first of these that is new enough; `make PYTHON=/path/to/python3.13 ...` names one.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint typecheck bench interop picture chaos libraries vm docs check clean

help:       ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(VENV)/.dev  ## make .venv with everything that development needs

demo: $(VENV)/.demo  ## real video and ML jobs, end to end; starts its own server
	@$(BIN)/heavyq demo

test: $(VENV)/.dev  ## unit, model and integration tests; start their own server
	@$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## ruff, formatting, and the layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { echo 'make lint: not formatted; run $(BIN)/ruff format'; exit 1; }
	@$(BIN)/lint-imports

typecheck: $(VENV)/.dev  ## mypy --strict
	@$(BIN)/mypy

bench: $(VENV)/.dev  ## print the benchmarks and write their JSON to tests/bench/results
	@$(BIN)/python -m tests.bench

interop: $(VENV)/.dev  ## with real BullMQ, v5 and v6 (needs node and npm)
	@command -v npm >/dev/null || { echo 'make interop: needs node and npm, and npm is not on the PATH'; exit 1; }
	@# Not `npm ci`: it refuses a lock without the optional packages of platforms for which there are none.
	@npm --prefix tests/interop install --no-save --no-audit --no-fund --loglevel=error
	@# For Bull Board. Without it its browser tests are skipped (in CI they fail).
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null \
		|| echo 'make interop: Chromium could not be installed'
	@$(BIN)/python -m pytest tests/interop -m 'long or not long' --record
	@$(BIN)/python docs/conformance.py > docs/reference/conformance.md

picture: $(VENV)/.dev  ## docs/img/bull-board.png, by the test that looks at Bull Board
	@HEAVYQ_SCREENSHOTS=docs/img $(BIN)/python -m pytest tests/interop/test_bullboard.py -k 'person_sees_jobs and v6'

chaos: $(VENV)/.dev  ## processes and servers killed at bad moments; and what takes long
	@$(BIN)/python -m pytest tests/chaos
	@$(BIN)/python -m pytest tests/integration -m long

libraries: $(LIBRARIES)/.dev  ## children with real torch and gRPC, in a venv of their own (large)
	@$(LIBRARIES)/bin/python -m pytest tests/libraries

vm: $(VENV)/.dev  ## what needs cgroup v2, in a virtual machine of its own (needs qemu and Debian's archive)
	@$(BIN)/python -m tests.vm

docs: $(VENV)/.dev  ## make the pages that are made from the code
	@$(BIN)/python -m heavyq.config.reference > docs/reference/options.md
	@$(BIN)/python docs/states.py > docs/explain/states.md
	@$(BIN)/python docs/conformance.py > docs/reference/conformance.md

check: lint typecheck test interop chaos libraries  ## what CI runs

clean:      ## remove what the targets above have made
	rm -rf $(VENV) $(LIBRARIES) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf tests/interop/node_modules demo-out .vm

$(VENV)/.dev: $(VENV)/bin/python $(LOCKED)
	@echo 'installing heavyq with all extras into $(VENV)'
	@$(PIP) --editable '.[demo,dev]'
	@touch $@ $(VENV)/.demo

$(LIBRARIES)/.dev: $(VENV)/bin/python $(LOCKED)
	@echo 'installing heavyq, torch and gRPC into $(LIBRARIES)'
	@$(BIN)/python -m venv $(LIBRARIES)
	@$(PIP:$(BIN)/%=$(LIBRARIES)/bin/%) --editable '.[libraries]'
	@touch $@

$(VENV)/.demo: $(VENV)/bin/python $(LOCKED)
	@echo 'installing heavyq and what its demo needs into $(VENV)'
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/bin/python:
	@for python in $(PYTHON); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done || { echo 'heavyq needs Python 3.11 or newer, and $(firstword $(PYTHON)) is' \
		"$$(command -v $(firstword $(PYTHON)) >/dev/null && $(firstword $(PYTHON)) -V 2>&1 || echo missing);" \
		'name another: make PYTHON=/path/to/python3.13'; exit 1; }; \
	$$python -m venv $(VENV) || { rm -rf $(VENV); echo 'python -m venv failed (see above);' \
		'on Debian and Ubuntu: apt install python3-venv'; exit 1; }
