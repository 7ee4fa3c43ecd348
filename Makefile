# `make demo` and `make test` set up everything they need: a virtual environment in .venv, torch,
# the build. System packages are installed where that is possible and named where it is not.
.PHONY: demo test test-deep kernel-tests arm-test wheel lint format sanitize bench docs setup system clean

PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)

CPP := $(shell find cpp_ops -name '*.cpp' -o -name '*.h')
BUILD_INPUTS := $(CPP) $(shell find . -name CMakeLists.txt -not -path './.venv/*' -not -path './build*')
KERNEL_INPUTS := $(filter cpp_ops/kernels/% cpp_ops/tests/%,$(CPP)) cpp_ops/kernels/CMakeLists.txt

demo: $(VENV)/.installed
	python -m bench.demo

# Two processes of two threads each: a thread that waits must not keep the others from computing.
test: $(VENV)/.installed kernel-tests
	OMP_WAIT_POLICY=passive python -m pytest -n 2

# The property tests at length: 20,000 random networks and more.
test-deep: $(VENV)/.installed
	FXPASS_HYPOTHESIS=deep python -m pytest tests/test_properties.py

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	mypy
	@clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.installed
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP)

bench: $(VENV)/.installed
	python -m bench.kernels
	python -m bench.zoo
	python -m bench.inspect
	python -m bench.deploy
	python -m bench.chain
	python -m bench.edge_tables
	python -m bench.budget
	python -m bench.resnet152

# The API reference, from the docstrings.
docs: $(VENV)/.installed
	python -m pdoc --docformat google --output-directory out/api fxpass

# Exported models trained on 64-bit Arm, under qemu: docs/arm.md. Downloads 430 MB once.
arm-test: $(VENV)/.installed
	bash tools/arm.sh
	python tools/arm_train.py

# out/dist: the source archive, and a wheel that has been tried where there is no compiler.
wheel: $(VENV)/.installed
	bash tools/check_wheel.sh

sanitize: $(VENV)/.installed
	bash tools/sanitize.sh

setup: $(VENV)/.installed

system:
	@PYTHON=$(PYTHON) bash tools/system-packages.sh

clean:
	rm -rf build out $(VENV)

# torch comes first, from pip; then fxpass against that torch (--no-build-isolation: no second one).
$(VENV)/.torch: | system
	$(PYTHON) -m venv $(VENV)
	pip install --quiet torch==2.13.0
	pip install --quiet 'scikit-build-core>=0.11' 'pybind11>=2.13' 'cmake>=3.24' ninja
	touch $@

# torchvision has no CPU wheel for this torch; its models need none of its operators.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(BUILD_INPUTS)
	pip install --quiet --no-build-isolation --editable '.[demo,dev]'
	pip install --quiet --no-deps torchvision==0.28.0 pillow
	touch $@

# The kernels alone: natively, and for aarch64 under qemu.
kernel-tests: build/kernels/.passed build/kernels-aarch64/.passed

build/kernels/.passed: $(KERNEL_INPUTS) | $(VENV)/.installed
	cmake -S cpp_ops/kernels -B build/kernels -G Ninja -DFXPASS_KERNEL_TESTS=ON >/dev/null
	cmake --build build/kernels
	build/kernels/kernels_test
	build/kernels/fuzz_payload 5
	touch $@

build/kernels-aarch64/.passed: $(KERNEL_INPUTS) cpp_ops/cmake/aarch64.cmake | $(VENV)/.installed
	cmake -S cpp_ops/kernels -B build/kernels-aarch64 -G Ninja -DFXPASS_KERNEL_TESTS=ON \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cpp_ops/cmake/aarch64.cmake >/dev/null
	cmake --build build/kernels-aarch64
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/kernels-aarch64/kernels_test
	touch $@
