# Each target installs what it needs: a virtual environment in .venv, the control plane's programs in the user's cache.

# Another ansible-core than the newest that this Python (or the image's) supports: `make test CORE=2.18`.
CORE ?=
# The first Python that is new enough; `make demo PYTHON=python3.13` chooses another.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 $(wildcard $(HOME)/.pyenv/versions/3.*/bin/python3)
OLDEST := $(if $(filter 2.20 2.21,$(CORE)),12,11)
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, $(OLDEST)))'
PYTHON ?= $(firstword $(foreach python,$(PYTHONS),$(shell $(python) $(NEW_ENOUGH) 2>/dev/null && command -v $(python))))
VENV ?= .venv$(CORE)
BIN := $(VENV)/bin

# The engine's image. Its tags have the versions of rolerunner and ansible-core (rolerunner:0.1.0-ansible2.18); the tag without an
# ansible-core has the newest.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' runner/__init__.py)
IMAGE_CORE := $(or $(CORE),$(shell sed -n 's/^ARG ANSIBLE_CORE=//p' Dockerfile))
ENGINE ?= rolerunner
BUILD = $(CONTAINER_TOOL) build --build-arg ANSIBLE_CORE=$(IMAGE_CORE) --label io.rolerunner.version=$(VERSION)

# The operator's image, to build, push and deploy. OVERLAY=single-namespace deploys it for the custom resources of its own
# namespace instead of all, OVERLAY=sharded replicas that share them, OVERLAY=autoscaled as many of these as there is work for.
IMG ?= controller:latest
OVERLAY ?= default
CONTAINER_TOOL ?= docker
UV ?= uv
KUBECTL ?= kubectl
# Server-side, as CRDs may be too large for the annotation of a client-side apply.
APPLY = $(KUBECTL) apply --server-side --force-conflicts
MANIFESTS = $(KUBECTL) kustomize config/$(OVERLAY) | sed 's|image: controller:latest$$|image: $(IMG)|'

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-cores chaos python lint docs check bench molecule clean requirements image docker-build docker-push install uninstall deploy undeploy

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.ready ## Set up the virtual environment

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python from 3.$(OLDEST) on was found; install one, or name it: make PYTHON=…" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(CORE:%='ansible-core==%.*')
	@touch $@

demo: venv ## Run the example operator on a real control plane, step by step
	@$(BIN)/python -m bench.demo

test: venv ## Run all tests; ARGS="-k queue" for some, CORE=2.18 for another ansible-core
	$(BIN)/python -m pytest $(ARGS)

# What depends on ansible-core, with each other version. From 2.20 on it needs a newer Python, which not every machine has.
test-cores: ## Run the tests of runs with each other ansible-core that the installed Pythons support
	$(MAKE) test CORE=2.16 ARGS="tests/executor/patches tests/executor/test_data.py"
	$(MAKE) test CORE=2.17 ARGS="tests/executor/patches tests/executor/test_data.py tests/executor/test_conformance.py"
	$(MAKE) test CORE=2.18 ARGS="tests/executor tests/behaviour"
	@if [ -n "$$($(MAKE) --no-print-directory python CORE=2.21)" ]; then \
		$(MAKE) test CORE=2.21 ARGS="tests/executor tests/behaviour"; \
	else echo "No Python from 3.12 on was found: nothing is tested with ansible-core 2.21"; fi

chaos: venv ## Inject faults into an operator under load; ARGS="--minutes 60" for the long form
	$(BIN)/python -m tests.chaos $(or $(ARGS),--short)

python:
	@echo $(PYTHON)

lint: venv ## Check style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the documentation is built with, and no test needs.
$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# Not --quiet, which keeps warnings from being counted.
docs: $(VENV)/.docs ## Build the documentation in build/site and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The documentation is in build/site/index.html"

check: ## Run everything that has to pass before a change lands (.ci/run)
	.ci/run

bench: venv ## Measure; ARGS="--crs 100 --facts both"
	@$(BIN)/python -m bench $(ARGS)

molecule: venv ## Run the example operator's molecule scenario
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/molecule test

# The oldest ansible-core has the tightest requirements. The others have to accept the versions that fit it, or uv says why not.
COMPILE = $(UV) pip compile --quiet --universal --no-annotate --no-header
requirements: ## Update the pinned Python packages of the image; needs uv
	set -e; { sed '/^[^#]/d' requirements.txt; \
	    printf '%s\n' pip setuptools 'ansible-core==2.16.*' | $(COMPILE) --python-version 3.11 pyproject.toml - \
	        | grep -v '^ansible-core=='; } > requirements.new; mv requirements.new requirements.txt; \
	for core in $$(sed -n 's/^ansible-core==\([0-9]*\.[0-9]*\)\..*/\1/p' requirements-ansible-core.txt); do \
	    pin=$$(echo "ansible-core==$$core.*" | $(COMPILE) --python-version 3.12 --constraint requirements.txt pyproject.toml - \
	        | grep '^ansible-core=='); \
	    sed "s/^ansible-core==$$core\.[^ ]*/$$pin/" requirements-ansible-core.txt > requirements.new; \
	    mv requirements.new requirements-ansible-core.txt; \
	done

image: ## Build the engine's image, on which operators build theirs; CORE=2.18 for another ansible-core
	$(BUILD) --target runner $(if $(CORE),,--tag $(ENGINE):$(VERSION)) --tag $(ENGINE):$(VERSION)-ansible$(IMAGE_CORE) $(ARGS) .

docker-build: ## Build the example operator's image IMG
	$(BUILD) --tag $(IMG) $(ARGS) .

docker-push: ## Push the image IMG
	$(CONTAINER_TOOL) push $(IMG)

install: ## Install the CRDs
	$(APPLY) -k config/crd

uninstall: ## Remove the CRDs, and with them all custom resources
	$(KUBECTL) delete --ignore-not-found -k config/crd

deploy: ## Deploy the CRDs and the operator with the image IMG; OVERLAY=single-namespace, sharded or autoscaled for other forms
	$(MANIFESTS) | $(APPLY) -f -

# The CRDs first, while the operator is still there to run finalizers.
undeploy: uninstall ## Remove everything that was deployed
	$(MANIFESTS) | $(KUBECTL) delete --ignore-not-found -f -

clean: ## Remove the virtual environments and the tools' caches
	rm -rf .venv* build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
