# Everything below needs python >= 3.10 and nothing else. `make demo` and `make test` set up what is
# missing in .venv, once, and keep what the machine has.
#
#   make demo                       the main job on generated data, on the CPU
#   make demo-semantic              Recall Loss beside cross-entropy, likewise
#   make test                       the tests
#   make check                      lint, types and tests
#   make test DETECTRON2=/a/path    take detectron2 from a local checkout or wheel

PYTHON ?= python3
VENV ?= .venv
DETECTRON2 ?= git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup demo demo-semantic test test-all check lint format types clean

setup: $(READY)

$(READY): setup.py tools/setup_environment.py
	@$(PYTHON) tools/setup_environment.py --venv "$(VENV)" --detectron2 "$(DETECTRON2)"
	@touch $(READY)

# Detectron2 uses torch.jit.script, of whose end torch warns in every process.
demo: $(READY)
	@PYTHONWARNINGS=ignore::FutureWarning $(PY) tools/demo.py

demo-semantic: $(READY)
	@PYTHONWARNINGS=ignore::FutureWarning $(PY) tools/demo_semantic.py

# One thread per process: more of them would only wait for each other. Files stay together, for what
# their tests share.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

test: $(READY)
	$(PYTEST)

test-all: $(READY)
	$(PYTEST) --runslow

check: lint types test

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(READY)
	$(PY) -m pyright

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
