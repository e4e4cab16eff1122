# Kilonova: `make help` lists what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down clean-data build test test-all test-real tempest chaos bench lint fmt guest-image

export SEED KILONOVA_HOME DEMO HYPERVISOR HOSTS UP_ARGS KILONOVA_TEST_DBS KILONOVA_TEST_SEED

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  KILONOVA_HOME   where the cloud lives (default /var/lib/kilonova)"
	@echo "  DEMO=0          make up without the demo server"
	@echo "  HYPERVISOR=sim  make up with simulated hosts (HOSTS=3), without root"

up: ## system packages, build, start the cloud, boot a first server
	@scripts/up.sh

down: ## stop the cloud, remove guests and networks from this machine; disks and data stay
	@scripts/down.sh

clean-data: ## make down, and remove the cloud's data
	@scripts/down.sh --data

build: ## build the binary (target/debug/kilonova)
	cargo build --locked --package kilonova

test: ## everything the project tests; installs what the tests need
	@scripts/test.sh

test-all: ## make test with the whole database matrix, long runs, the release before beside this one, a Debian guest
	@scripts/test.sh --all

test-real: ## only the end-to-end tests on real guests
	@scripts/test.sh --only packages,client,guest,build,e2e-real

tempest: ## Tempest's tests of compute on simulated hosts; ARGS chooses others (tests/tempest)
	@scripts/tempest.sh $(ARGS)

chaos: ## random actions while random processes are killed; SEED=N repeats a run, ARGS chooses more (tests/chaos)
	@scripts/chaos.sh $(ARGS)

bench: ## the benchmark of an optimized binary: start, memory, CPU for each create, latencies; ARGS chooses (tests/bench)
	@scripts/bench.sh $(ARGS)

lint: ## formatting, layout, clippy
	@scripts/test.sh --only fmt,tidy,clippy

fmt: ## format the Rust code
	cargo fmt --all

guest-image: ## build the guest image into target/guest.qcow2
	@scripts/guest-image/build.sh target/guest.qcow2
