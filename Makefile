# Every target sets up .venv from the lock by itself (once, quietly).
PYTHON ?= python3.11
VENV   := .venv
LOCK   := containers/cpu.lock
STAMP  := $(VENV)/.installed
PEERS  := $(VENV)/peers
SINKS  := $(VENV)/sinks
BROWSER := $(VENV)/browser
RUN    := $(VENV)/bin
LOG    := $(VENV)-setup.log
# The second leg: Python 3.12 and the newest megatron-core, what a GPU image has. A pyenv shim may exist without its
# version being chosen, so each candidate has to run.
NEWEST_PYTHON ?= $(shell for p in python3.12 "$$HOME"/.pyenv/versions/3.12.*/bin/python3.12; do \
                   "$$p" -c '' 2>/dev/null && echo "$$p" && break; done)
NEWEST       := .venv-newest
NEWEST_LOCK  := containers/newest.lock
NEWEST_STAMP := $(NEWEST)/.installed
NEWEST_LOG   := $(NEWEST)-setup.log
# Python and C library of the GPU image. antlr4-python3-runtime has a source distribution only.
GPU_PLATFORM := --python-version 3.12 --python-platform x86_64-manylinux_2_39 \
  --only-binary :all: --no-binary antlr4-python3-runtime
# One thread per process is the rule on a shared box; the program sets its own count per role.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-newest matrix has-newest peers sinks browser bench robust lint format setup gpu-lock clean
.DEFAULT_GOAL := demo

setup: $(STAMP)

$(STAMP): $(LOCK)
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON) (or: make PYTHON=python3.11 ...)"; exit 1; }
	@echo "setting up $(VENV) from $(LOCK) (about three minutes, once; log: $(LOG))"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
	  { $(RUN)/pip install --no-deps --disable-pip-version-check pip==26.3 setuptools==78.1.1 wheel==0.45.1 && \
	    $(RUN)/pip install --no-deps --no-build-isolation --disable-pip-version-check -r $(LOCK) && \
	    $(RUN)/pip install --no-deps --no-build-isolation --disable-pip-version-check -e . ; } > $(LOG) 2>&1 || \
	  { tail -n 20 $(LOG); echo "set-up failed; whole log: $(LOG)"; exit 1; }
	@touch $@

demo: $(STAMP)
	@$(RUN)/nemo-cascade run cascade=nano

# Two files at a time; half of a test's time is waiting for processes to start.
test: $(STAMP)
	@$(RUN)/pytest tests --ignore=tests/benchmarks -m "not gpu and not bench and not long" -n 2 --dist loadfile \
	  --no-loadscope-reorder --durations=15

$(NEWEST_STAMP): $(NEWEST_LOCK)
	@test -n "$(NEWEST_PYTHON)" || { echo "needs python3.12 (or: make NEWEST_PYTHON=... test-newest)"; exit 1; }
	@echo "setting up $(NEWEST) from $(NEWEST_LOCK) (about two minutes, once; log: $(NEWEST_LOG))"
	@rm -rf $(NEWEST) && $(NEWEST_PYTHON) -m venv $(NEWEST) && \
	  { $(NEWEST)/bin/pip install --no-deps --disable-pip-version-check pip==26.3 setuptools==78.1.1 wheel==0.45.1 && \
	    $(NEWEST)/bin/pip install --no-deps --no-build-isolation --disable-pip-version-check -r $(NEWEST_LOCK) && \
	    $(NEWEST)/bin/pip install --no-deps --no-build-isolation --disable-pip-version-check -e . ; } > $(NEWEST_LOG) 2>&1 || \
	  { tail -n 20 $(NEWEST_LOG); echo "set-up failed; whole log: $(NEWEST_LOG)"; exit 1; }
	@touch $@

has-newest:
	@test -n "$(NEWEST_PYTHON)"

# The training half's proofs on it: parity with transformers, reshard, packing leak, reward model, resume.
test-newest: $(NEWEST_STAMP)
	@$(NEWEST)/bin/pytest tests/distributed/test_hf_parity.py tests/distributed/test_reshard.py \
	  tests/distributed/test_reward_model.py tests/proofs/test_packing_leak.py tests/proofs/test_resume_training.py \
	  tests/unit/training -m "not gpu and not bench and not long" -n 2 --dist loadfile --durations=5

# Every layout that this package can have, of every family and objective: about an hour.
matrix: $(STAMP)
	@$(RUN)/pytest tests/distributed/test_hf_parity.py tests/distributed/test_layout_matrix.py \
	  tests/distributed/test_padding_groups.py tests/distributed/test_dry_build.py \
	  tests/distributed/test_mixture_parity.py tests/distributed/test_mixture_engine.py \
	  tests/distributed/test_mixture_training.py tests/proofs/test_mixture_leak.py -m long -q

# Peers that only benchmarks and comparisons use; beside the lock's packages, not among them.
peers: $(PEERS)

$(PEERS): $(STAMP)
	@$(RUN)/pip install -q --no-deps --disable-pip-version-check --target $@ $$($(RUN)/python -c 'import tomllib; \
	  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	  print(*extras["bench"], *extras["nemo"])') >> $(LOG) 2>&1

# W&B and MLflow, beside the lock's packages; a run finds them with PYTHONPATH=.venv/sinks.
sinks: $(SINKS)

$(SINKS): $(STAMP)
	@$(RUN)/pip install -q --no-deps --disable-pip-version-check --target $@ $$($(RUN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["sinks"])') >> $(LOG) 2>&1

# axe-core (MPL-2.0), which checks the pages' accessibility in Chromium; tests only, nothing of it is shipped.
browser: $(BROWSER)

$(BROWSER): $(STAMP)
	@$(RUN)/pip install -q --no-deps --disable-pip-version-check --target $@ $$($(RUN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["browser"])') >> $(LOG) 2>&1

bench: $(STAMP) $(PEERS)
	@PYTHONPATH=$(PEERS) $(RUN)/pytest tests/benchmarks -m bench -s -q

# The demo's cascade under other seeds, instruction sets and threads: hours; goes on where it was stopped.
robust: $(STAMP)
	@$(RUN)/python tests/benchmarks/robust.py

# Metadata only, about 100 MB; a minute.
gpu-lock: $(STAMP)
	@UV_PYTHON_DOWNLOADS=never $(RUN)/uv pip compile pyproject.toml containers/gpu.in --extra gpu --extra tensorboard \
	  $(GPU_PLATFORM) --generate-hashes --quiet --custom-compile-command "make gpu-lock" -o containers/gpu.lock

lint: $(STAMP)
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy nemo_cascade

format: $(STAMP)
	@$(RUN)/ruff format . && $(RUN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(LOG) $(NEWEST) $(NEWEST_LOG) runs
