# One command each; `make` alone lists them. The work is done in scripts/.

PYTHON ?= python3
SECONDS ?= 60
SEED ?= 1
TIER ?= thread process
# For bench-peers: how often, what (or all), which files (default: the small model), features of the library.
ROUNDS ?= 5
ONLY ?=
MODELS ?=
FEATURES ?=
PROMPT ?= Why is the sky blue? Answer in two sentences.

# The prompt reaches the demo through the environment, byte by byte: $(value) and := keep make from expanding a `$` in
# it, `unexport` keeps make from expanding it again for the environment, and no shell reads it as code.
export LLAMAPEN_PROMPT := $(value PROMPT)
unexport PROMPT

.PHONY: help demo crash-demo chaos test test-all cuda-check dispatch-check bench bench-batching bench-dispatch bench-health bench-load bench-parts bench-peers bench-prepare bench-process fuzz loom sanitize deps model vendor clean
.DEFAULT_GOAL := help

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: deps ## Chat with a small model, streamed: make demo PROMPT="..."
	@model=$$($(PYTHON) scripts/model.py) && \
	    cargo run --release --example chat -- --model "$$model" "$$LLAMAPEN_PROMPT"

crash-demo: deps ## One answer that lives through every kind of fault, in threads, then in processes: make crash-demo TIER=thread
	@model=$$($(PYTHON) scripts/model.py) && for tier in $(TIER); do \
	    cargo run --release --features fault-injection --example crash_demo -- --model "$$model" --isolation $$tier \
	    || exit; done

chaos: deps ## A thousand faults at random under load on each tier, then as shipped (an hour): make chaos SEED=1 TIER=process
	@$(PYTHON) scripts/model.py > /dev/null && for tier in $(TIER); do \
	    CHAOS_SEED=$(SEED) LLAMAPEN_TEST_ISOLATION=$$tier \
	    cargo test --release --features fault-injection --test chaos -- --nocapture --include-ignored \
	    --test-threads 1 --skip child --skip a_hundred || exit; done

test: ## Every test; ends with "N passed, N failed"
	@$(PYTHON) scripts/test.py

test-all: ## The same, and on both tiers also what should be alike there (ten minutes more)
	@$(PYTHON) scripts/test.py --all

cuda-check: ## Build with CUDA, on a machine that needs no GPU, and run that on the CPU (half an hour at first)
	@scripts/cuda-check

dispatch-check: ## Build for every x86-64 at once, show that each level keeps to itself, and run those that are here (10 minutes at first)
	@scripts/dispatch-check

bench-dispatch: deps ## That library beside one for this machine alone, in turn (5 minutes)
	@$(PYTHON) benches/dispatch.py

bench: deps ## Speed beside a plain llama.cpp loop, idle and with a busy host (minutes)
	@$(PYTHON) scripts/bench.py

bench-batching: deps ## Many streams beside llama.cpp's batched loop, known beginnings, fairness (8 minutes)
	@$(PYTHON) scripts/bench_batching.py

bench-health: deps ## How long a look at the health takes while workers decode and die (seconds)
	@model=$$($(PYTHON) scripts/model.py) && \
	    cargo run --release --features fault-injection --example bench_health -- --model "$$model"

bench-load: deps ## Starts by phases, with the file in the page cache and without, on each tier (a minute)
	@cargo build --release --lib && $(PYTHON) scripts/bench_load.py

bench-prepare: deps ## Time and memory that preparing takes (seconds)
	@$(PYTHON) scripts/bench_prepare.py

bench-process: deps ## Workers as processes beside workers as threads: speed, restarts, memory (5 minutes)
	@$(PYTHON) scripts/bench_process.py

bench-parts: deps ## Criterion's benchmarks of calls and parts: no model, or a tiny one (2 minutes)
	@models=$$($(PYTHON) scripts/synthetic.py) && LLAMAPEN_SYNTHETIC_MODELS="$$models" cargo bench --features benches

bench-peers: deps ## Beside llama.cpp's programs and bindings (12 minutes a file): make bench-peers ROUNDS=5 ONLY="load crash" MODELS=FILES
	@cargo build --release --lib --features "$(FEATURES)" && $(PYTHON) benches/peers/run.py --rounds $(ROUNDS) --json docs/performance.json \
	    $(if $(ONLY),--only $(ONLY)) $(if $(MODELS),--models $(MODELS)) && $(PYTHON) benches/peers/report.py

fuzz: deps ## 50,000 broken model files for the loader, then libFuzzer on the readers of models and frames: make fuzz SECONDS=60
	@$(PYTHON) scripts/fuzz.py --seconds $(SECONDS)

sanitize: deps ## The supervisor's tests with AddressSanitizer and ThreadSanitizer; needs clang (half an hour)
	@$(PYTHON) scripts/sanitize.py

loom: deps ## Every order in which threads can come to the queues' locks (minutes)
	@$(PYTHON) scripts/loom.py

deps: ## Check the build tools; make .venv with libclang and pytest
	@$(PYTHON) scripts/deps.py

model: deps ## Fetch the small model (93 MB, once) and print its path
	@$(PYTHON) scripts/model.py

vendor: ## Fetch the pinned llama.cpp source into vendor/llama.cpp
	@target="$${CARGO_TARGET_DIR:-target}" && mkdir -p "$$target" && \
	    rustc --edition 2024 -o "$$target/vendor" scripts/vendor.rs && CARGO_MANIFEST_DIR="$$PWD" "$$target/vendor" >/dev/null

clean: ## Remove what was built; .venv, vendor/llama.cpp and the cache of engines and models stay
	@cargo clean
