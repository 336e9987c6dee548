# Needs Python >= 3.10 and nothing else: set-up installs what is missing in .venv, once, and keeps
# the packages of the machine. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
DETECTRON2 ?= auto
ifneq ($(words $(VENV)),1)
$(error VENV must be one folder whose name has no space)
endif
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup help demo demo-semantic test test-all check lint format types clean asked

setup: $(READY)  ## set up .venv (PYTHON=..., VENV=FOLDER, DETECTRON2=git|index|PATH)

help:  ## list the targets
	@awk -F ':.*## *' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "DETECTRON2 says where Detectron2 comes from: git (its repository, compiled here), index (the"
	@echo "copy of its Python part on the package index), or the path of a checkout or wheel. Default:"
	@echo "the installed one, else git, else index. PYTEST_ADDOPTS adds options to the tests."

# An explicit DETECTRON2 is checked even if everything is set up. Without its Python, the environment
# is made again.
ifneq ($(DETECTRON2),auto)
$(READY): asked
else ifeq ($(wildcard $(PY)),)
$(READY): asked
endif

$(READY): setup.py tools/setup_environment.py d2_seesaw/install_detectron2.py d2_seesaw/detectron2_origin.py
	@$(PYTHON) tools/setup_environment.py --venv "$(VENV)" --detectron2 "$(or $(DETECTRON2),auto)"

# Detectron2 uses torch.jit.script, which is deprecated: torch would warn in every process.
demo: $(READY)  ## generate data, train, evaluate and draw, on the CPU
	@PYTHONWARNINGS=ignore::FutureWarning $(PY) tools/demo.py

demo-semantic: $(READY)  ## the same with Recall Loss beside cross-entropy
	@PYTHONWARNINGS=ignore::FutureWarning $(PY) tools/demo.py --semantic

# One thread per process, because more would wait for each other. The tests of a file share fixtures
# and stay in one process.
# One process more than there are cores, because tests of ranks and time limits wait.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(4, (os.cpu_count() or 1) + 1))")
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile

test: $(READY)  ## run the tests
	$(PYTEST)

test-all: $(READY)  ## run the tests, the slow ones included
	$(PYTEST) --runslow

check: lint types test  ## run lint, types and tests, as CI does

lint: $(READY)  ## check code style
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)  ## format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(READY)  ## check types
	$(PY) -m pyright --pythonpath $(PY)

clean:  ## remove .venv and caches
	@test ! -e "$(VENV)" -o -e "$(VENV)/pyvenv.cfg" || { echo "$(VENV) is not a virtual environment"; exit 1; }
	rm -rf "$(VENV)" .pytest_cache .ruff_cache

# The extra `docs` is installed when it is first needed.
.PHONY: docs api
docs: $(READY)  ## build the documentation in site/, offline, and check its links
	@$(PY) -c "import latex2mathml, material, mkdocstrings_handlers.python" 2>/dev/null || $(PY) -m pip install --quiet -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

api: $(READY)  ## record the public names and signatures in tests/api_surface.json
	$(PY) -m tests.support.api_surface
