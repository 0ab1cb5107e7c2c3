# Pointsman. Needs python3 >= 3.11, make and git; uses uv where it works, else pip. Everything lands in .venv.
#   make serve   the gateway on 127.0.0.1:8080 with the embedded model family     (ARGS="--port 9000 --config FILE")
#                with optional parts of the package: make serve EXTRAS=providers,replay, or make install EXTRAS=…
#   make demo    graded prompts through the gateway, with a table at the end; it says how long   (ARGS='--prompts 100')
#   make test    the test suite           make check   ruff, mypy --strict, import-linter
#   make bench   what a request costs     make test-vllm, make test-packages, make test-faults   the long suites
#   make live    a public trace through the gateway beside replay's figure                   (ARGS=--quick)
#   make site      the pages as a site in build/site, to be read without a network
#   make test-world   gateways, engines and clients in one process under a virtual clock           (SEEDS=1..2000)

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
EXTRAS ?=
SECONDS_OF_FAULTS ?= 120
SEEDS ?= 1..2000
BIN := $(VENV)/bin
JOBS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install serve demo test check bench test-vllm test-packages test-faults test-clients test-world live site clean help
.DEFAULT_GOAL := help

help:
	@sed -n '2,10s/^#   //p' Makefile

install: $(VENV)/.base $(if $(EXTRAS),$(VENV)/.with-$(EXTRAS))

serve: $(VENV)/.base $(if $(EXTRAS),$(VENV)/.with-$(EXTRAS))
	@$(BIN)/pointsman serve $(ARGS)

demo: $(VENV)/.demo
	@$(BIN)/pointsman demo $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.gateway $(ARGS)

test-vllm: $(VENV)/.test
	tests/vllm/install.sh
	$(BIN)/python -m pytest tests/vllm -m vllm --timeout 900 $(ARGS)

test-packages: $(VENV)/.test
	$(BIN)/python -m pytest tests/cli/test_packages.py -m packages $(ARGS)

test-faults: $(VENV)/.test
	$(BIN)/python -m benchmarks.money faults --seconds $(SECONDS_OF_FAULTS) $(ARGS)

test-clients: $(VENV)/.test
	$(BIN)/python -m tests.clients.run $(ARGS)

test-world: $(VENV)/.test
	$(BIN)/python -m benchmarks.worlds run $(SEEDS) --processes $(JOBS) $(ARGS)

live: $(VENV)/.test
	$(BIN)/python -m benchmarks.live $(ARGS)

site: $(VENV)/.test
	$(BIN)/python docs/site.py build/site

clean:
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as new as the pyproject.toml it was installed from, so that a rerun costs nothing.
$(VENV)/.base: pyproject.toml .ci/install
	@.ci/install $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.with-%: pyproject.toml .ci/install
	@.ci/install $(PYTHON) $(VENV) $*
	@touch $@ $(VENV)/.base

$(VENV)/.demo: pyproject.toml .ci/install
	@.ci/install $(PYTHON) $(VENV) demo
	@touch $@ $(VENV)/.base

$(VENV)/.test: pyproject.toml .ci/install
	@.ci/install $(PYTHON) $(VENV) test
	@touch $@ $(VENV)/.base $(VENV)/.demo
