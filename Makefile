# One command for each task. Every target does its own set-up, says what it does, and is quick when there is nothing to do.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

CARGO ?= cargo
WASM := wasm32-wasip2
WHARF := target/release/wharf

# Every crate below plugins/ that builds a component; its directory has its name.
PLUGINS := $(patsubst plugins/%/Cargo.toml,%,$(shell grep -l '"cdylib"' plugins/*/Cargo.toml))

# What the items plugin needs. More arguments for the host: make run ARGS='--listen 0.0.0.0:8000'
GRANTS := auth,sql
ARGS ?=

# Which fuzz targets run, and for how many seconds each: make fuzz FUZZ=sql FUZZ_TIME=600. Seed 0 is another one each time.
FUZZ ?= $(patsubst tests/fuzz/targets/%.rs,%,$(wildcard tests/fuzz/targets/*.rs))
FUZZ_TIME ?= 60
FUZZ_SEED ?= 0

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build everything and serve it on http://127.0.0.1:8000 with the items plugin
	@exec $(WHARF) serve --deploy target/plugins/items.wasm --grant $(GRANTS) $(ARGS)

.PHONY: build
build: host plugins ## Build target/release/wharf and target/plugins/*.wasm

.PHONY: host
host: cargo
	@echo '== Building $(WHARF)'
	@$(CARGO) build --release -p wharf

.PHONY: plugins
plugins: wasm ## Build target/plugins/*.wasm only
	@echo '== Building plugins: $(PLUGINS)'
	@$(CARGO) build --lib --profile plugin --target $(WASM) $(PLUGINS:%=-p %)
	@mkdir -p target/plugins
	@# Only what changed is copied, so that a test or a deploy can tell by time.
	@for name in $(PLUGINS); do \
		built="target/$(WASM)/plugin/$${name//-/_}.wasm"; \
		cmp -s "$$built" "target/plugins/$$name.wasm" || cp "$$built" "target/plugins/$$name.wasm"; \
		echo "   target/plugins/$$name.wasm"; \
	done

.PHONY: test
test: plugins ## Run every test; those of PostgreSQL need its server programs (initdb)
	@echo '== Running the tests'
	@$(CARGO) test --workspace

.PHONY: attack
attack: build ## Attack the release build, alone, and hold its neighbour against the clock
	@echo '== Attacking $(WHARF)'
	@WHARF_ATTACK_ALONE=1 WHARF_TEST_PROGRAM='$(CURDIR)/$(WHARF)' \
		$(CARGO) test --workspace --test wharf -- attack:: --test-threads=1 --nocapture

.PHONY: fuzz
fuzz: cargo ## Feed the host what nobody thought of, FUZZ_TIME seconds for each target
	@# libFuzzer is C++.
	@command -v c++ >/dev/null || { echo 'A C++ compiler (c++) is missing; on Debian: apt install build-essential' >&2; exit 1; }
	@echo '== Building the fuzz targets'
	@# Not by cargo-fuzz, which builds all dependencies once more: a quarter of an hour. See tests/fuzz/Cargo.toml. The dev
	@# profile, because overflows and failed debug assertions are findings.
	@CARGO_PROFILE_DEV_OPT_LEVEL=1 RUSTC_WORKSPACE_WRAPPER='$(CURDIR)/tests/fuzz/instrument' \
		$(CARGO) build -p wharf-fuzz --bins
	@# New inputs go into the first directory, so that the seeds stay as they are; then the seeds and former findings are
	@# tried before anything else.
	@for target in $(FUZZ); do \
		echo "== Fuzzing $$target for $(FUZZ_TIME) s"; \
		program="target/debug/$$target"; \
		grown="target/fuzz/corpus/$$target"; found="target/fuzz/found/$$target"; log="target/fuzz/$$target.log"; \
		mkdir -p "$$grown" "$$found"; \
		if ! "$$program" -max_total_time=$(FUZZ_TIME) -seed=$(FUZZ_SEED) -timeout=10 -rss_limit_mb=2048 \
			-artifact_prefix="$$found/" "$$grown" "tests/fuzz/corpus/$$target" "$$found" >"$$log" 2>&1; then \
			tail -n 40 "$$log"; \
			echo "== $$target found something. The input lies in $$found/ (all of the output in $$log). To see it again:"; \
			echo "   $$program $$(ls -t "$$found"/* | head -n 1)"; \
			exit 1; \
		fi; \
		sed -n 's/^Done \(.*\)/   \1/p' "$$log"; \
	done

.PHONY: lint
lint: cargo ## Check format and lints, as CI does
	@echo '== Checking format and lints'
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: cargo ## Format the code
	@$(CARGO) fmt --all

.PHONY: bench
bench: build ## Measure against plain axum and sqlx, as ratios
	@command -v wrk >/dev/null || { \
		echo '== wrk is missing; installing it with apt'; \
		apt-get install -y -qq wrk || { apt-get update -qq && apt-get install -y -qq wrk; }; \
	}
	@echo '== Building the other side'
	@$(CARGO) build --release -p wharf-bench
	@target/release/wharf-bench $(WHARF)

.PHONY: deny
deny: cargo ## Check licences, bans and advisories of the dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
		echo '== cargo-deny is missing; installing it with cargo, which takes some minutes'; \
		$(CARGO) install --locked cargo-deny; \
	}
	@echo '== Checking dependencies'
	@$(CARGO) deny --config .cargo/deny.toml check

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
