# make demo and make test set up everything they need: a virtual environment in .venv, torch, the
# build. System packages are installed where that is possible and named where it is not.
.PHONY: demo test test-deep lint format sanitize bench setup system clean

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/kernels
JOBS := $(shell nproc)
SOURCES := $(shell find cpp_ops fxpass -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt' -o -name '*.cmake') CMakeLists.txt pyproject.toml
CPP := $(shell find cpp_ops -name '*.cpp' -o -name '*.h')

demo: $(VENV)/.installed
	$(BIN)/python -m bench.demo

test: $(VENV)/.installed kernel-tests
	$(BIN)/python -m pytest

# The property tests at length: 20,000 random networks and more.
test-deep: $(VENV)/.installed
	FXPASS_HYPOTHESIS=deep $(BIN)/python -m pytest tests/test_properties.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/.installed
	$(BIN)/python -m bench.kernels
	$(BIN)/python -m bench.zoo

setup: $(VENV)/.installed

system:
	bash tools/system-packages.sh

# torch comes first, from pip; then fxpass against that torch (--no-build-isolation: no second one).
$(VENV)/.torch: | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet 'scikit-build-core>=0.11' 'pybind11>=2.13' 'cmake>=3.24' ninja
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-build-isolation --editable '.[demo,dev]'
	touch $@
