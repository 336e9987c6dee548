# Everything below needs python >= 3.10 and nothing else. `make demo` and `make test` set up what is
# missing in .venv, once, and keep what the machine has.
#
#   make demo                       the main job on generated data, on the CPU
#   make demo-semantic              Recall Loss beside cross-entropy, likewise
#   make test                       the tests
#   make check                      lint, types and tests
#   make test DETECTRON2=git        take Detectron2 from its repository and compile it, or fail
#   make test DETECTRON2=index      take the copy of its Python part that is on the package index
#   make test DETECTRON2=/a/path    take it from a local checkout or wheel
#
# Without DETECTRON2: what is installed already, else git, else index. Set-up says what it took.

PYTHON ?= python3
VENV ?= .venv
DETECTRON2 ?= auto
ifneq ($(words $(VENV)),1)
$(error VENV must be one folder whose name has no space)
endif
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup demo demo-semantic test test-all check lint format types clean asked

setup: $(READY)

# Whoever asks for a certain Detectron2 wants it looked at even if everything is set up. Nothing is
# set up if the Python that the environment was made with is gone.
ifneq ($(DETECTRON2),auto)
$(READY): asked
else ifeq ($(wildcard $(PY)),)
$(READY): asked
endif

$(READY): setup.py tools/setup_environment.py d2_seesaw/install_detectron2.py d2_seesaw/detectron2_origin.py
	@$(PYTHON) tools/setup_environment.py --venv "$(VENV)" --detectron2 "$(or $(DETECTRON2),auto)"

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
	$(PY) -m pyright --pythonpath $(PY)

clean:
	@test ! -e "$(VENV)" -o -e "$(VENV)/pyvenv.cfg" || { echo "$(VENV) is not a virtual environment"; exit 1; }
	rm -rf "$(VENV)" .pytest_cache .ruff_cache

# The extra `docs` is installed when it is first needed.
.PHONY: docs api
docs: $(READY)  ## build the documentation in site/, offline, and check its links
	@$(PY) -c "import latex2mathml, material, mkdocstrings_handlers.python" 2>/dev/null || $(PY) -m pip install --quiet -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

api: $(READY)  ## record the public names and signatures in tests/api_surface.json
	$(PY) -m tests.support.api_surface
