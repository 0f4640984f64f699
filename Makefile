# Each target builds its own environment on a fresh machine; later runs start at once.
PYTHON  ?= python3
VENV    ?= .venv
# One test process per core, eight at most; each computes on one thread.
WORKERS ?= auto
TESTS    = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.DELETE_ON_ERROR:
.NOTPARALLEL:  # two pips in one environment disturb each other
.PHONY: demo test check lint types docs format release clean gpu-bundle examples

demo: $(VENV)/.installed          ## distil the embedded digits and show the result
	$(VENV)/bin/attar demo

test: $(VENV)/.installed-test     ## run the tests
	$(TESTS)

check: lint types docs            ## all that CI runs: lint, format, types, docs, tests
	$(TESTS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-test
	$(VENV)/bin/mypy

docs: $(VENV)/.installed-test     ## build the documentation into site/, a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

format: $(VENV)/.installed-test   ## mend what can be mended without thinking
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

examples: $(VENV)/.installed      ## the three of examples/ on Fashion-MNIST, on two cores; their tables go into runs/examples
	@mkdir -p runs/examples
	@export OMP_NUM_THREADS=1; \
	{ $(VENV)/bin/python examples/continual.py --data fashion >runs/examples/continual.md & } && \
	$(VENV)/bin/attar condense --recipe best --niter 12 --out runs/examples/fashion && \
	$(VENV)/bin/python examples/search.py runs/examples/fashion >runs/examples/search.md && \
	$(VENV)/bin/python examples/device.py runs/examples/fashion >runs/examples/device.md && wait $$!
	@cat runs/examples/*.md

# The Pythons that the wheel is tried on, as far as they are here.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14

release: $(VENV)/.installed-test  ## build sdist and wheel into dist/, check them, run the demo of the wheel on each of PYTHONS
	rm -rf dist
	$(VENV)/bin/python -m pytest -q tests/test_release.py
	$(VENV)/bin/python -m hatchling build -d dist
	@for python in $(PYTHONS); do \
	  $$python --version 2>/dev/null || { echo "$$python is not here"; continue; }; \
	  rm -rf dist/venv; $$python -m venv dist/venv && dist/venv/bin/pip install --quiet -c constraints.txt dist/*.whl \
	    && (cd dist && venv/bin/attar --version && venv/bin/attar demo --quiet --overwrite --out demo) || exit 1; \
	done; rm -rf dist/venv dist/demo

# What a machine with a GPU and without a network lacks: see benchmarks/gpu.sh.
FASHION ?= /usr/share/datasets/fashion-mnist

gpu-bundle: | $(VENV)/bin/python  ## fill .gpu/: three wheels and Fashion-MNIST's files
	@test -d $(FASHION) || { echo "make gpu-bundle: no Fashion-MNIST in $(FASHION); on Debian: apt-get install dataset-fashion-mnist, or FASHION=FOLDER" >&2; exit 2; }
	rm -rf .gpu
	mkdir .gpu
	$(VENV)/bin/python -m pip download --quiet --no-deps --only-binary :all: -c constraints.txt -d .gpu cyclopts docstring-parser rich-rst
	cp $(FASHION)/*-ubyte.gz .gpu
	@du -sh .gpu

clean:                            ## remove the environment and the caches, never a run or a pool
	rm -rf $(VENV) site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attar needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[test,docs,tensorboard,wandb]'
	@touch $(VENV)/.installed $@
