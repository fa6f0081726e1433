# Two commands for a newcomer: `make demo` and `make test`. Everything else is built on them.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
export OMP_NUM_THREADS ?= 2
# Threads soon sleep when they wait for each other: with GNU OpenMP's long spinning a training step was measured up to ten
# times slower beside two busy programs; this costs a tenth on a quiet machine.
export GOMP_SPINCOUNT ?= 20000
NOTEBOOKS := $(wildcard examples/*.ipynb)
SHARP := core store statistics selection
SHARP_TESTS := $(SHARP:%=tests/%) tests/cli/test_keys.py

.PHONY: demo test quick test-long lint types coverage reliability mutants wheel dist sbom smoke docs notebooks gpu-wheels gpu-check clean

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[codecs,dev]'
	touch $@

demo: $(VENV)/.installed  ## the main job on simulated ultrasound, offline, about ten minutes on two cores
	$(BIN)/meddap demo --output demo

test: lint types quick  ## lint, types and the quick tests

quick: $(VENV)/.installed  ## the quick tests alone; with VENV and CONSTRAINTS, in another environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-long: $(VENV)/.installed  ## the long counts and everything marked slow; dcmtk and chromium serve it where they are
	$(PIP) SimpleITK
	$(BIN)/python -m pytest -m slow

docs: notebooks  ## the site, in site/; any broken link fails; open site/index.html, no server and no network is needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

notebooks: build/examples/.executed  ## run the notebooks that changed since they ran; the site shows what they said and drew

build/examples/.executed: $(wildcard examples/*.ipynb) $(VENV)/.docs
	rm -rf build/examples && mkdir -p build && cp -r examples build/examples
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --nbmake --overwrite --nbmake-timeout=1200 --timeout=1800 -p no:xdist build/examples
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	touch $@

smoke: $(VENV)/.installed  ## the four published studies at smoke scale
	$(BIN)/python -m pytest -m smoke

gpu-wheels: $(VENV)/.installed  ## what `make gpu-check` needs beside PyTorch, into .whl; THERE=FILE leaves out what that machine has
	$(BIN)/python -m benchmarks.gpu_check wheels --to .whl $(if $(THERE),--there $(THERE))

gpu-check:  ## every GPU path against the CPU, then speed and memory, into gpu_check.json; no network, no environment of its own
	$(PYTHON) -m benchmarks.gpu_check run $(if $(wildcard .whl),--wheels .whl) $(GPU_CHECK)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS))

types: $(VENV)/.installed
	$(BIN)/mypy

coverage: $(VENV)/.installed  ## branches of the rooms that all else stands on, each by its own tests: 90 % or it fails
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(SHARP_TESTS) --cov-branch --cov-fail-under=90 \
	  --cov-report=term:skip-covered $(SHARP:%=--cov=meddap_monai/%)

reliability: $(VENV)/.installed  ## every promise with its long counts, into docs/reliability.md; goes on where it stopped
	$(BIN)/python -m tools.promises

mutants: $(VENV)/.installed  ## change the code of those rooms and count which changes no test notices
	$(PIP) mutmut
	$(BIN)/mutmut run --max-children 2 $(MUTANTS)
	$(BIN)/mutmut results
	$(BIN)/mutmut export-cicd-stats

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

dist: $(VENV)/.installed  ## wheel and source archive, checked as an index would
	$(PIP) --editable '.[release]'
	rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

sbom: $(VENV)/.installed  ## what an installation consists of (CycloneDX), and docs/licences.md
	$(PIP) --editable '.[release]'
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.json $(BIN)/python
	$(BIN)/python -m tools.licences

clean:
	rm -rf build dist mutants site *.egg-info .mypy_cache .ruff_cache .coverage
