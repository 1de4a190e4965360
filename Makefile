# What a checkout can do: `make help`. Everything lives in .venv; nothing else on the machine changes.
PYTHON ?= python3
# One more than the cores of a small machine: tests of processes mostly wait for them. Who has none left takes from the others.
PYTEST_WORKERS ?= 3
EXTRAS := test,lint,demo,cluster
# `make test-torch` has an environment of its own, so that .venv stays as constraints.txt says.
OTHER_TORCH ?= 2.11.0
OTHER_VENV ?= .venv-torch-$(OTHER_TORCH)

BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed-bench
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
# The examples in docstrings run too; fake_worker.py is a worker's side and has no business in this process.
# Modules of kernels need Triton, which CUDA builds of torch bring.
DOCTESTS := --doctest-modules --ignore=tests/process/fake_worker.py $(addprefix --ignore=,src/holdtrue/numerics/_triton.py tests/triton_cases.py tests/triton_code.py)
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt

# Bits depend on the number of threads, and test processes share the cores.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

# Containers like to set it. Each of the hundreds of processes of the tests would compile holdtrue anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-cluster test test-slow test-torch exhaustive soak gpu browser slurm ray ray-core lint format types rules docs docs-site bench constraints clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

venv: $(STAMP) ## .venv with holdtrue and all that its tests need
	@echo "holdtrue is installed in .venv; its command is .venv/bin/holdtrue"

$(STAMP): pyproject.toml constraints.txt $(wildcard src/holdtrue/numerics/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "holdtrue needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: venv or ensurepip is missing. Install it (Debian, Ubuntu: apt install python3-venv), or name another Python: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing $(TORCH); this is the long part"
	@$(PIP_INSTALL) "$(TORCH)"
	@echo "installing holdtrue[$(EXTRAS)]"
	@$(PIP_INSTALL) -e ".[$(EXTRAS)]"
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "installing what the benchmarks compare with"
	@$(PIP_INSTALL) -e ".[bench]"
	@touch $@

demo: $(STAMP) ## trains on 1, 2, 3 and changing workers and compares the bits; about two minutes after set-up
	@$(BIN)/python examples/demo.py

demo-cluster: $(STAMP) ## three live jobs share two devices, under static priority and weighted fair sharing; three minutes
	@$(BIN)/python examples/cluster/demo.py

test: $(STAMP) ## the default tests and the examples in docstrings
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(DOCTESTS) src tests

# Triton takes a gigabyte and is for tests alone, so it lies aside, unless a build of torch for CUDA has brought it.
# Not in constraints.txt: each build of torch for CUDA asks for its own version.
TRITON := $(abspath .venv)/triton
TRITON_VERSION := triton==3.9.0

test-slow: $(STAMP) ## the default tests and those that take minutes; installs the loggers and Triton first
	@$(PIP_INSTALL) -e ".[loggers]"
	@$(BIN)/python -c "import triton" 2>/dev/null || test -d $(TRITON)/triton || $(PIP_INSTALL) --no-deps --target $(TRITON) "$(TRITON_VERSION)" || \
	  echo "triton cannot be installed here (see above); the tests of its kernels are passed over"
	@$(PIP_INSTALL) openvino || echo "openvino cannot be installed here (see above); the test of exports in it is passed over"
	HOLDTRUE_TRITON=$(TRITON) $(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(DOCTESTS) -m "not gpu and not soak and not browser and not slurm and not ray" src tests

$(OTHER_VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(OTHER_VENV)/bin/python || $(PYTHON) -m venv $(OTHER_VENV)
	@sed 's/^torch==.*/torch==$(OTHER_TORCH)/' constraints.txt > $(OTHER_VENV)/constraints.txt
	@echo "installing torch $(OTHER_TORCH) and holdtrue[$(EXTRAS)] in $(OTHER_VENV); some gigabytes where that torch is a build for CUDA"
	@$(OTHER_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-input \
	  -c $(OTHER_VENV)/constraints.txt "torch==$(OTHER_TORCH)" -e ".[$(EXTRAS)]"
	@touch $@

test-torch: $(STAMP) $(OTHER_VENV)/.installed ## the reference trainings and default tests under another torch: make test-torch OTHER_TORCH=2.11.0
	$(OTHER_VENV)/bin/python -m holdtrue verify --reference
	HOLDTRUE_OTHER_PYTHON=$(abspath $(OTHER_VENV))/bin/python $(BIN)/python -m pytest -rs tests/process/test_numerics_other_torch.py
	$(OTHER_VENV)/bin/python -m pytest -n $(PYTEST_WORKERS) $(DOCTESTS) src tests

exhaustive: $(STAMP) ## functions of portable numerics for every float32; 18 minutes on one core; writes benchmarks/raw/exhaustive.json
	$(BIN)/python benchmarks/exhaustive.py --out benchmarks/raw/exhaustive.json

soak: $(STAMP) ## randomised tests that run long
	$(BIN)/python -m pytest -s -m soak tests

gpu: $(STAMP) ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests

browser: $(STAMP) ## tests of the dashboard in the chromium of this machine; draws the pictures in docs/pictures
	@$(PIP_INSTALL) -e ".[browser]"
	HOLDTRUE_DRAW=1 $(BIN)/python -m pytest -n 0 -m browser tests/process

slurm: $(STAMP) ## tests with Debian's Slurm on loopback, installed first where root may; three minutes
	@sh tests/process/install_slurm.sh
	$(BIN)/python -m pytest -n 0 -rs -m slurm tests/process/test_slurm.py

RAY_INSTALL := $(PIP_INSTALL) -e ".[ray]" || { echo "ray cannot be installed here (see above); its tests need it, and are not passed over. Give pip an index that has ray, or run the other targets: make help"; exit 1; }

ray: $(STAMP) ## tests of the ray engine on Ray clusters that they start; about six minutes on two cores
	@$(RAY_INSTALL)
	$(BIN)/python -m pytest -n 0 -m ray tests/process

ray-core: $(STAMP) ## the part of make ray that .ci/run has: placed by Ray, deaths of all kinds, the same bits; two minutes
	@$(RAY_INSTALL)
	$(BIN)/python -m pytest -n 0 -m ray tests/process/test_ray_engine.py -k "placed_by_ray or exit_statuses"

lint: $(STAMP) ## style of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## rewrites the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## strict types of src
	$(BIN)/mypy

rules: $(STAMP) ## which room may import which
	$(BIN)/lint-imports --no-cache

docs: $(STAMP) ## tests of README and docs: examples run, links resolve, commands exist; redraws the tree
	$(BIN)/python docs/pictures/draw_tree.py
	$(BIN)/python -m pytest -n 0 tests/docs

docs-site: $(STAMP) ## the documentation site into site/, warnings as errors
	@$(PIP_INSTALL) -e ".[docs]"
	$(BIN)/python -m mkdocs build --strict --quiet

bench: $(BENCH_STAMP) ## a step against plain loops, DDP and Accelerate; memory; start-up; writes benchmarks/raw
	for name in overhead ddp memory startup solver; do \
	  $(BIN)/python benchmarks/$$name.py --out benchmarks/raw/$$name.json || exit 1; \
	done

constraints: $(BENCH_STAMP) ## writes constraints.txt from what is installed in .venv
	@{ echo "# Exact versions that make installs and the tests ran with. Refresh: make constraints."; \
	   $(BIN)/python -m pip freeze --exclude-editable --exclude holdtrue | sed -n '/^[A-Za-z0-9_.-]*==/s/+[a-z0-9.]*$$//p'; } > constraints.txt
	@touch $(STAMP) $(BENCH_STAMP)

clean: ## removes .venv, caches and builds; leaves runs/
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
