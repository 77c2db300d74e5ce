# PG_CONFIG=/path/to/pg_config selects the Postgres; the default is the one in PATH, else the newest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help all packages compose release install demo demo-stop test test-engines test-install test-majors trust fuzz soak bench fmt clean

help:
	printf '%s\n' \
	    'make install      build the extension and install it into your Postgres' \
	    'make demo         copy three weeks of a fake Matomo into a new Postgres, or of your own Matomo:' \
	    '                  MATOMO_URL=… MATOMO_SITE=… MATOMO_KEY=… make demo' \
	    'make demo-stop    stop the demo and remove its files' \
	    'make test         check the format, run lints, unit and end-to-end tests' \
	    'make test-engines run the tests that write on tables that are not Postgres'\'' own heap' \
	    '                  (MATOMO_CITUS=/path/to/pg_config: on those of Citus, which that server has)' \
	    'make test-majors  run the end-to-end tests on PostgreSQL 16, 17 and 18 (MAJORS=17 for one of them,' \
	    '                  TESTS=selected for those that may differ; needs root)' \
	    'make test-install install the packages of MAJORS (15 17 18) in bare Debians, then with cargo-pgrx here' \
	    '                  (half an hour; needs root)' \
	    'make trust        run the end-to-end tests and write the report docs/trust.md' \
	    'make soak         test long use, valgrind, fuzzing; writes tests/SOAK.md (ten minutes)' \
	    'make fuzz         test hostile answers for MATOMO_FUZZ_SECONDS, 300 by default' \
	    'make bench        compare a sync with COPY; writes tests/bench/RESULTS.md (half an hour)' \
	    'make packages     a .deb and an .rpm of each of MAJORS (15), in target/packages' \
	    'make compose      a Postgres in a container, with the site of MATOMO_URL, MATOMO_SITE, MATOMO_KEY' \
	    'make release      all that a release has: packages of MAJORS (15 17 18), PGXN'\''s zip, SBOM, checksums' \
	    'make fmt          format the Rust code' \
	    'make clean        remove build results' \
	    '' \
	    'PG_CONFIG=/path/to/pg_config selects the Postgres, version 15 to 18.'

# What pgxnclient calls before `make install`.
all:
	packaging/setup build
	packaging/package >/dev/null

install:
	packaging/setup build
	folder=$$(packaging/package install)
	environment=$$(packaging/setup env); eval "$$environment"
	echo "Installed into $$($$PG_CONFIG --version). In your database, as a superuser:"
	echo "    CREATE EXTENSION matomo_postgres;"

demo:
	demo/run

demo-stop:
	demo/run stop

# All steps share one environment and profile, so that nothing is built twice.
test: export PROFILE ?= dev
test:
	step() { echo; echo "== $$*"; "$$@"; }
	step packaging/setup
	environment=$$(packaging/setup env); eval "$$environment"
	step cargo fmt --all --check
	step cargo clippy --workspace --all-targets $$PG_FEATURES -- -D warnings
	step cargo test --lib $$PG_FEATURES
	step cargo test -p fake_matomo
	echo; echo "== packaging/package"
	MATOMO_PACKAGE=$$(packaging/package); export MATOMO_PACKAGE
	step cargo test --test e2e $$PG_FEATURES

# What writes tables, on such as are not Postgres' own heap: see docs/scale.md.
test-engines: export PROFILE ?= dev
test-engines: TESTS ?= store:: sync::check sync::forget state::retention state::drop_steps rows::exactness
test-engines:
	[[ -z $${MATOMO_CITUS:-} ]] || export PG_CONFIG=$$MATOMO_CITUS
	packaging/setup
	environment=$$(packaging/setup env); eval "$$environment"
	MATOMO_PACKAGE=$$(packaging/package); export MATOMO_PACKAGE
	if [[ -n $${MATOMO_CITUS:-} ]]; then
	    exec cargo test --test e2e $$PG_FEATURES -- store::citus
	fi
	MATOMO_ENGINE=heap2 cargo test --test e2e $$PG_FEATURES -- $(TESTS)

# Those that `make test` does not test, on Debian 12; 17 and 18 also on hypertables of TimescaleDB.
test-majors: MAJORS ?= 16 17 18
test-majors: TESTS ?= all
test-majors:
	packaging/setup majors
	tests/majors $(TESTS) $(MAJORS)

test-install: MAJORS ?= 15 17 18
test-install:
	packaging/setup packages
	packaging/packages $(MAJORS)
	version=$$(packaging/version)
	tests/install $(foreach major,$(MAJORS),target/packages/postgresql-$(major)-matomo-postgres_$$version-1_amd64.deb)
	tests/install-pgrx

fuzz: export MATOMO_FUZZ_SECONDS ?= 300
fuzz:
	packaging/setup
	environment=$$(packaging/setup env); eval "$$environment"
	MATOMO_PACKAGE=$$(PROFILE=dev packaging/package); export MATOMO_PACKAGE
	cargo test --test e2e $$PG_FEATURES -- hostile:: --nocapture

# All tests add rows; a new file drops rows of removed tests.
trust: export PROFILE ?= dev
trust: export MATOMO_TRUST = target/trust.md
trust:
	packaging/setup
	environment=$$(packaging/setup env); eval "$$environment"
	MATOMO_PACKAGE=$$(packaging/package); export MATOMO_PACKAGE
	mkdir -p target; rm -f $$MATOMO_TRUST
	cargo test --test e2e $$PG_FEATURES
	mv $$MATOMO_TRUST docs/trust.md

soak:
	tests/soak

bench:
	tests/bench/run

packages: MAJORS ?= 15
packages:
	packaging/setup packages
	packaging/packages $(MAJORS)
	packaging/lint

compose: MAJOR ?= 17
compose:
	packaging/setup packages
	packaging/packages $(MAJOR)
	MAJOR=$(MAJOR) docker compose -f packaging/docker/compose.yaml up --build --wait

release: MAJORS ?= 15 17 18
release:
	packaging/setup packages
	packaging/release $(MAJORS)

fmt:
	cargo fmt --all

clean: demo-stop
	cargo clean
