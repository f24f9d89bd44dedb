#!/usr/bin/env bash
# Seconds an iteration takes over MPI, with workers that sleep: docs/complexity/mpi.sh [FOLDER]
# Nine ranks; takes three minutes. MPIEXEC may add options, such as "mpiexec --oversubscribe".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-runs/complexity}
for active in 1 2 4 8; do
    ${MPIEXEC:-mpiexec} -n 9 asyndbt run "$here/study.toml" --overwrite \
        --output "$folder/runs/mpi/active_workers=$active.h5" \
        --set algorithm.active_workers=$active --set algorithm.plane_until=0 \
        --set algorithm.max_delay=1000 --set delay.mean=0.2 --set run.iterations=200 > /dev/null
done
asyndbt plot stragglers "$folder/runs/mpi" -o "$folder/seconds-mpi"
asyndbt plot timing "$folder/runs/mpi/active_workers=4.h5" -o "$folder/timing"
