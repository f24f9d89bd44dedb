#!/bin/bash
# A sweep as a job array, and a job that draws its figures when every element is done.
#
#     STATIONARITY=yes slurm/chain.sh CONFIG SWEEP_FILE FOLDER [options of sbatch for the sweep]
#
# for instance --ntasks-per-node=5 --time=01:00:00 --partition=short. Prints the jobs' numbers.
# At most AT_ONCE elements run at a time. Repeat the line to resume after a failure.

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
if [ ! -r "$sweep" ]; then
    echo "$0: there is no $sweep" >&2
    exit 2
fi
lines=$(tr -d '\r' <"$sweep" | grep -Ev '^[[:space:]]*(#|$)') || {
    echo "$0: $sweep has no line of settings" >&2
    exit 2
}
elements=$(wc -l <<<"$lines")
twice=$(sort <<<"$lines" | uniq -d | head -n 1)
if [ -n "$twice" ]; then
    echo "$0: $sweep has the same line twice, for one log: $twice" >&2
    exit 2
fi
# What is wrong with the first line is wrong with all of them, as a rule.
if command -v asyndbt >/dev/null; then
    read -ra words <<<"$(head -n 1 <<<"$lines")" # unlike a loop over them, no * is expanded
    sets=()
    for word in "${words[@]}"; do
        sets+=(--set "$word")
    done
    asyndbt status "$config" "${sets[@]}" --output "$folder/none.h5" >/dev/null ||
        [ $? -eq 1 ] || exit 2
fi
mkdir -p -- "$folder"
# A copy: the elements read it when they start, and the file may be another by then.
copy=$folder/sweep.txt
printf '%s\n' "$lines" >"$copy.new"
mv "$copy.new" "$copy"

array=$(sbatch --parsable --array="1-$elements%$AT_ONCE" "$@" \
    "$ASYNDBT_SLURM/sweep.sbatch" "$config" "$copy" "$folder")
array=${array%%;*} # a federation adds its cluster's name
echo "sweep: job $array, $elements elements"

where=() # the plots' job has a size of its own, but is at home in the same place
for option in "$@"; do
    case $option in
    --partition=* | --account=* | --qos=*) where+=("$option") ;;
    esac
done
plots=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes \
    ${where[@]+"${where[@]}"} "$ASYNDBT_SLURM/plots.sbatch" "$folder")
echo "figures in $folder, when all is done: job ${plots%%;*}"
