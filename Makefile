# What a newcomer types. Whichever target comes first installs the project into .venv; nothing is written outside this
# folder but the caches of pip and uv. Needs Python 3.11 to 3.13, git and make.
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
INSTALLED := .venv/installed

# Jupyter, IPython and matplotlib keep their files here instead of in the home folder.
HOUSEKEEPING := $(CURDIR)/.venv/var
export JUPYTER_CONFIG_DIR := $(HOUSEKEEPING)/jupyter/config
export JUPYTER_DATA_DIR := $(HOUSEKEEPING)/jupyter/data
export JUPYTER_RUNTIME_DIR := $(HOUSEKEEPING)/jupyter/runtime
export IPYTHONDIR := $(HOUSEKEEPING)/ipython
export MPLCONFIGDIR := $(HOUSEKEEPING)/matplotlib

.PHONY: help install reproduce smoke lab test lint lock

help:
	@echo 'make reproduce   every notebook, table and figure on this machine (profile laptop)'
	@echo 'make smoke       the same in minutes with tiny numbers (profile smoke)'
	@echo 'make lab         JupyterLab, opened on notebook 00'
	@echo 'make test        the fast tests'
	@echo 'make lint        formatting, lint and types'
	@echo 'make lock        pin anew what pyproject.toml asks for'

install: $(INSTALLED)

reproduce: $(INSTALLED)
	$(BIN)/sprint run --profile laptop

smoke: $(INSTALLED)
	$(BIN)/sprint run --profile smoke

lab: $(INSTALLED)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

test: $(INSTALLED)
	$(BIN)/pytest -q

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# uv does not read pip's settings, so a folder of local wheels or an index that pip is set up with is handed on.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "SPRINT needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@pip_setting() { $(BIN)/python -m pip config get "global.$$1" 2>/dev/null; }; \
	links="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$(pip_setting find-links)}}"; \
	index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(pip_setting index-url)}}"; \
	[ -z "$$links" ] || export UV_FIND_LINKS="$$(echo $$links | tr ' ' ',')"; \
	[ -z "$$index" ] || export UV_DEFAULT_INDEX="$$index"; \
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.lock -e .
	@touch $@

# torch is pinned by version alone and without the CUDA packages of its default Linux build, so that the CPU build, a
# CUDA build and a local wheel all satisfy the lock; a build that needs CUDA packages pins and brings its own.
lock: $(INSTALLED)
	@{ echo '# Every package of pyproject.toml and its extra dev, pinned for all platforms. Made by `make lock`.'; \
	env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --extra dev \
	  --no-annotate --no-header pyproject.toml | grep -vE '^(cuda|nvidia|triton)(-|==)'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
