# Everything a user or developer runs. Needs Python 3.11 or later, make, and the package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development

.PHONY: help serve install test check fix bench parity soak generated-client constraints clean
help:  ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

serve: $(RUNTIME)  ## install what is needed and start the service on 127.0.0.1:8000 with the demo models
	$(BIN)/onnxplain serve

install: $(RUNTIME)  ## the set-up alone

test: $(DEVELOPMENT) check  ## the same set-up, then every check and the whole test suite
	$(BIN)/python -m pytest

soak: $(DEVELOPMENT)  ## the long runs: overload, memory, crashes, swaps, drains, slow clients, fuzzing
	HYPOTHESIS_PROFILE=default $(BIN)/python -m pytest -m soak
	$(BIN)/python -m tests.soak

bench: .venv-bench/.installed  ## side by side with the peers, in an environment of their own; writes benchmarks/RESULTS.md
	.venv-bench/bin/python benchmarks/heatmaps.py
	.venv-bench/bin/python benchmarks/permutation.py

parity: .venv-bench/.installed  ## exact gradients of exported architectures against references: make parity FOLDERS='...'
	.venv-bench/bin/python benchmarks/architectures.py $(FOLDERS)

.venv-bench/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' --editable client
	@touch $@

check: $(DEVELOPMENT)  ## lint, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fix: $(DEVELOPMENT)  ## let ruff mend and format what it can, and bring the generated documents up to date
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/cog -r -I . openapi.md
	$(BIN)/cog -r README.md

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml client/pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): half a minute, more on a slow line."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --editable client
	@touch $@

$(DEVELOPMENT): pyproject.toml client/pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), with what the tests need: a minute or two."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' --editable client
	@touch $@ $(RUNTIME)

generated-client: $(DEVELOPMENT)  ## generate a client from /openapi.json and use it against the running service
	$(BIN)/python -m tests.generated_client

constraints: $(DEVELOPMENT)  ## write constraints.txt anew from what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | grep -vi '^pip\|^setuptools' > constraints.txt

clean:  ## forget the environments and caches
	rm -rf $(VENV) .venv-bench build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
