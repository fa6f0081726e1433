# Two commands for a newcomer: `make demo` and `make test`. Everything else is built on them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
# Threads soon sleep when they wait for each other: with GNU OpenMP's long spinning a training step was measured up to ten
# times slower beside two busy programs; this costs a tenth on a quiet machine.
export GOMP_SPINCOUNT ?= 20000

.PHONY: demo test test-long lint types wheel smoke docs notebooks clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[codecs,dev]'
	touch $@

demo: $(VENV)/.installed  ## the main job on simulated ultrasound, offline, about ten minutes on two cores
	$(BIN)/meddap demo --output demo

test: $(VENV)/.installed lint types  ## lint, types and the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-long: $(VENV)/.installed  ## the long counts and everything marked slow; dcmtk and chromium serve it where they are
	$(BIN)/python -m pip install --quiet --disable-pip-version-check SimpleITK
	$(BIN)/python -m pytest -m slow

docs: notebooks  ## the site, in site/; any broken link fails; open site/index.html, no server and no network is needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

notebooks: build/examples/.executed  ## run the notebooks that changed since they ran; the site shows what they said and drew

build/examples/.executed: $(wildcard examples/*.ipynb) $(VENV)/.docs
	rm -rf build/examples && mkdir -p build && cp -r examples build/examples
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --nbmake --overwrite --nbmake-timeout=1200 --timeout=1800 -p no:xdist build/examples
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

smoke: $(VENV)/.installed  ## the four published studies at smoke scale
	$(BIN)/python -m pytest -m smoke

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache
