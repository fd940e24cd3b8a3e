# Rangeboard's commands. `make help` lists them; `make up` and `make test` need only Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RANGEBOARD := $(BIN)/rangeboard
PACKAGES := api sharding workers records runtime cli k8s loadtest
DATA_DIR ?= .rangeboard

.DEFAULT_GOAL := help
.PHONY: help install up down demo test test-quick bench costs capacity load faults faults-records faults-api reads ranks explore check format settings lock clean-data

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[36mmake %-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## make .venv with the pinned dependencies (the others call it when needed)

$(VENV)/installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rangeboard needs Python 3.11 or newer; name one with make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

up: install ## the whole stack in the foreground; Ctrl-C stops everything
	$(RANGEBOARD) up --data-dir $(DATA_DIR)

down: install ## stop a detached stack
	$(RANGEBOARD) down --data-dir $(DATA_DIR)

demo: install ## the guided tour, on the running stack or on one of its own
	$(RANGEBOARD) demo --data-dir $(DATA_DIR)

test: install ## all the tests, on real servers
	$(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

test-quick: install ## the tests that need no servers
	$(BIN)/pytest -m "not servers" tests/unit

bench: install ## figures beside their floors, on a stack of its own; --write keeps them in docs/benchmarks.md
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

costs: install ## measure what a submission, a read and a player cost, for `rangeboard plan` (minutes)
	PYTHONPATH=tests $(BIN)/python -m bench.costs $(ARGS)
	@$(MAKE) --no-print-directory capacity

capacity: install ## write the tables of docs/capacity.md from the capacity model
	@$(BIN)/python -m loadtest.capacity_page docs/capacity.md

load: install ## the load test on the running stack; its verdict here, its report in reports/load.html
	@mkdir -p reports
	@$(RANGEBOARD) status --data-dir $(DATA_DIR) --json > reports/stack.json
	$(BIN)/python -m loadtest.run --stack reports/stack.json --report reports/load.html $(ARGS)

faults: install ## kill, pause and cut off real processes: make faults ARGS="primary_killed --times 20"
	PYTHONPATH=tests $(BIN)/python -m tests.faults $(ARGS)

faults-records: install ## the audit's and the archive's fault tests, large: kills, servers away, a million players
	WORKER_KILLS=100 WORKER_SUBMISSIONS=500000 AWAY_S=60 ARCHIVE_PLAYERS=1000000 \
	$(BIN)/pytest -s -o timeout=3600 tests/faults/test_workers.py tests/faults/test_workers_lifecycle.py $(ARGS)

faults-api: install ## kill the API's own workers at every step of a move, under load over HTTP
	API_SECONDS=600 $(BIN)/pytest -s tests/faults/test_api_workers.py $(ARGS)

reads: install ## 2,000 random writes and reads over HTTP, each held against a sorted list
	READS_STEPS=40 READS_RUNS=60 $(BIN)/pytest -s -q --timeout 1800 tests/stateful/test_http_reads.py -k sorted_list $(ARGS)

ranks: install ## 10,000 exact ranks read while 2,000 submissions/s run and ranges move
	RANKS_READS=10000 RANKS_RATE=2000 $(BIN)/pytest -s -q --timeout 900 tests/acceptance/test_ranks_under_load.py

explore: install ## walk every interleaving of the handoff, in its large form (about a minute)
	$(BIN)/python -m tests.unit.sharding.handoff.explorer large

check: install ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

settings: install ## write docs/settings.md from the table of settings
	@sed '/^| variable/,$$d' docs/settings.md > docs/settings.new
	@$(BIN)/python -c 'from runtime.settings import table; print(table(), end="")' >> docs/settings.new
	@mv docs/settings.new docs/settings.md

lock: install ## resolve the pinned dependencies again (needs uv; the lock names no host)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/dev.lock pyproject.toml -o requirements/runtime.lock

clean-data: install ## stop the stack and remove its data directory
	$(RANGEBOARD) down --data-dir $(DATA_DIR) --remove-data
