# Every command for people and for CI. `make` lists them.

SERVERS := deploy/local/servers
CARGO ?= cargo
# What cargo keeps for a second build makes the first one slower. Set CARGO_INCREMENTAL=1 while you edit.
export CARGO_INCREMENTAL ?= 0
# One set of features for tests and demo, so that nothing is built twice.
FEATURES := --workspace --features crash-points
DEMO := $(or $(CARGO_TARGET_DIR),target)/debug/demo

.DEFAULT_GOAL := help
.PHONY: help test test-rust test-clients docs proofs console console-pictures faults simulate fuzz soak bench check deploy-check release-check demo demo-kills demo-up demo-down bins

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: test-rust test-clients ## run every test against real servers

test-rust: bins ## the tests of the daemon, of the client for Rust and of the pages
	$(SERVERS) run -- $(CARGO) test $(FEATURES)

test-clients: bins ## the tests of the other clients (CLIENTS="node go")
	clients/test $(CLIENTS)

proofs: bins ## a minute per outage, twenty crashes per point, 100,000 events piled up, with figures (about 15 minutes)
	OUTBOXD_TEST_OUTAGE=60 OUTBOXD_TEST_CRASHES=20 OUTBOXD_TEST_PILE=100000 $(SERVERS) run -- \
		$(CARGO) test $(FEATURES) --test main -- outages:: crashes:: bounds:: --test-threads=1 --nocapture

console: ## the console with a million events, of which 100,000 are stuck, and a thousand pages (20 minutes: a release build)
	OUTBOXD_TEST_CONSOLE=1000000 OUTBOXD_TEST_PAGES=1000 $(SERVERS) run -- \
		$(CARGO) test --release $(FEATURES) --features jemalloc --test main -- console::load console::streams::hundreds --nocapture

console-pictures: bins ## the pictures and the transcript of docs/console.md
	OUTBOXD_WRITE_DOCS=1 $(SERVERS) run -- \
		$(CARGO) test $(FEATURES) --test main -- console::pictures console::clicked --test-threads=1

faults: bins ## every fault of relays, servers and the network, for longer (about 15 minutes; BURSTS=off)
	$(if $(BURSTS),OUTBOXD_TEST_BURSTS=$(BURSTS)) OUTBOXD_TEST_FAULT=$(or $(FAULT),20) OUTBOXD_TEST_CRASHES=10 $(SERVERS) run -- \
		$(CARGO) test $(FEATURES) --test main -- faults:: crashes:: protocol:: fleet:: --include-ignored --skip soak --test-threads=4 --nocapture

simulate: ## the relay's core in memory, from other seeds (SEEDS=0..100000)
	OUTBOXD_SIMULATE=$(or $(SEEDS),0..20000) $(CARGO) test $(FEATURES) --package outboxd --lib simulation::whatever -- --nocapture

fuzz: ## ten million inputs for each parser of bytes from outside (TARGET=ack, INPUTS=100000)
	tests/fuzz/run $(TARGET)

soak: bins ## faults at random for an hour (MINUTES=60, SEED= to play one again)
	OUTBOXD_TEST_SOAK=$(or $(MINUTES),60) $(if $(SEED),OUTBOXD_TEST_SEED=$(SEED)) $(SERVERS) run -- \
		$(CARGO) test $(FEATURES) --test main -- faults::soak --include-ignored --nocapture

bench: ## outboxd beside the bare loops, same run, same machine (ARGS="drain --events 10000")
	$(SERVERS) run -- $(CARGO) bench --features jemalloc --bench bench -- $(ARGS)

check: ## formatting, lints, documentation, and a client library without the daemon's dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy --package outboxd-client --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features
	! $(CARGO) tree --package outboxd-client --edges normal --prefix none | grep -E '^(async-nats|axum|clap|toml|hyper|reqwest|tokio-cron-scheduler) '

deploy-check: ## image, compose files, manifests, chart, systemd unit, alerts and dashboard, without an engine or a cluster
	deploy/check $(if $(STRICT),--strict)
	deploy/monitoring/check $(if $(STRICT),--strict)

docs: ## build the pages of docs as a site in target/book, and check its links and its search
	docs/build

release-check: ## what a release must pass: licences, SBOM, crates, the oldest Rust; packages, image and chart, installed and run
	deploy/release-check

demo: bins ## run the ticketing services under load and check what is left (FLEET=1: one outboxd for all of them)
	FLEET=$(FLEET) $(SERVERS) run -- $(DEMO) run

demo-kills: bins ## the same for longer, each service and relay, MongoDB's primary and nats-server killed (-9) in turn (FLEET=1)
	FLEET=$(FLEET) $(DEMO) kills

demo-up: bins ## start the ticketing services and leave them running (FLEET=1)
	@FLEET=$(FLEET) $(DEMO) up

demo-down: ## end what demo-up started
	@$(DEMO) down

# The servers are fetched meanwhile: the build uses the processors, and they the network. Whoever needs
# a server that could not be fetched says so again.
bins:
	@$(SERVERS) fetch >/dev/null & servers=$$!; \
	echo $(CARGO) build $(FEATURES) --bins; $(CARGO) build $(FEATURES) --bins; built=$$?; \
	wait $$servers; exit $$built
