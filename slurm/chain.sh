#!/bin/bash
# A sweep as a job array, and a job that draws its figures when every element is done.
#
#     STATIONARITY=yes slurm/chain.sh CONFIG SWEEP_FILE FOLDER [options of sbatch for the sweep]
#
# for instance --ntasks-per-node=5 --time=01:00:00 --partition=short. Prints the jobs' numbers.
# At most AT_ONCE elements run at a time. The same line again goes on after a failure.

set -euo pipefail

AT_ONCE=${AT_ONCE:-8}
ASYNDBT_SLURM=${ASYNDBT_SLURM:-$(cd "$(dirname "$0")" && pwd)}
export ASYNDBT_SLURM

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG SWEEP_FILE FOLDER [options of sbatch]" >&2
    exit 2
fi
config=$1 sweep=$2 folder=$3
shift 3
elements=$(grep -cEv '^[[:space:]]*(#|$)' "$sweep") || {
    echo "$0: $sweep has no line of settings" >&2
    exit 2
}
mkdir -p "$folder"

array=$(sbatch --parsable --array="1-$elements%$AT_ONCE" "$@" \
    "$ASYNDBT_SLURM/sweep.sbatch" "$config" "$sweep" "$folder")
array=${array%%;*} # a federation adds its cluster's name
plots=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes \
    "$ASYNDBT_SLURM/plots.sbatch" "$folder")
echo "sweep: job $array, $elements elements; figures in $folder: job ${plots%%;*}"
