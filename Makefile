# The verbs of this repository, for people and for CI alike. `make` alone lists them.
# Everything is built with --workspace, so that all verbs share one set of features and nothing is compiled twice.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
ARGS ?=

.PHONY: help
help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Everything in one process with 200 simulated devices; ARGS="--exit" to end by itself
	$(CARGO) build --release --workspace --bins
	"$${CARGO_TARGET_DIR:-target}/release/muster" demo $(ARGS)

.PHONY: check
check: ## Format and lints, warnings denied; needs no service
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: test
test: services ## What CI runs: check, every test, doctests, documentation, licences; starts the services that do not answer
	@scripts/test.sh

.PHONY: bench
bench: services ## The performance table: tracked round trips beside raw ones on the same broker, and their ratio
	@scripts/bench.sh $(ARGS)

.PHONY: soak
soak: services ## Several controllers, large fleets and things that die, measured at the devices: make soak ARGS="controllers --seconds 120"
	@scripts/soak.sh $(ARGS)

.PHONY: services
services: ## Find PostgreSQL, Mosquitto, Azurite, Python, unzip and journalctl for the tests, or start them
	@scripts/services.sh

.PHONY: up
up: ## The whole stack in containers: databases, brokers, controller, a simulated fleet
	docker compose up --detach --build --wait

.PHONY: down
down: ## Stop the stack of `make up` and the services that `make services` started; data in volumes stays
	@scripts/services.sh stop
	@if docker info >/dev/null 2>&1; then docker compose down --remove-orphans; fi

.PHONY: openapi
openapi: ## Write docs/openapi.json from the handlers
	$(CARGO) build --workspace --bins --locked
	"$${CARGO_TARGET_DIR:-target}/debug/muster" openapi > docs/openapi.json.new
	mv docs/openapi.json.new docs/openapi.json

.PHONY: deny
deny: ## Advisories, licences, duplicates and sources of all dependencies (needs cargo-deny)
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --workspace --locked check; \
	else echo "deny: cargo-deny is not installed, nothing was checked (cargo install --locked cargo-deny)"; fi
