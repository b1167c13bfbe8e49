# Every command for people and for CI. `make` lists them.

SERVERS := deploy/local/servers
CARGO ?= cargo
DEMO := $(CARGO) run --quiet --features demo --bin demo --

.DEFAULT_GOAL := help
.PHONY: help test outages check demo demo-up demo-down bins

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## run every test against real servers
	$(SERVERS) run -- $(CARGO) test --features demo

outages: ## the outage proofs at full length (about 7 minutes)
	OUTBOXD_TEST_OUTAGE=60 $(SERVERS) run -- $(CARGO) test --features demo --test main -- outages:: --test-threads=1 --nocapture

check: ## formatting, lints, and a library half without the daemon's dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	$(CARGO) clippy --lib --no-default-features -- -D warnings
	! $(CARGO) tree --no-default-features --edges normal --prefix none | grep -E '^(async-nats|axum|clap|figment|hyper|reqwest|tokio-cron-scheduler) '

demo: bins ## run the ticketing services under load and check what is left
	$(SERVERS) run -- $(DEMO) run

demo-up: bins ## start the ticketing services and leave them running
	@$(DEMO) up

demo-down: ## end what demo-up started
	@$(DEMO) down

# The profile and features of the tests, so that nothing is built twice.
bins:
	$(CARGO) build --features demo --bins
