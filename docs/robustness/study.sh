#!/usr/bin/env bash
# All tables of docs/robustness.md but that with a language model, which takes its own data.
# Hours on one core; runs that are finished are not made again.
#     docs/robustness/study.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/robustness}
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1

bench() { # NAME, then what benchmarks/robustness.py is told
    local name=$1
    shift
    "$python" benchmarks/robustness.py -o "$out" "$@" | tee "$out/$name.md"
    cp "$out/robustness.csv" "$out/$name.csv"
    cp "$out/seeds.csv" "$out/$name-seeds.csv"
}

ten=(--workers 10 --active 5 --seeds 10)
twenty=(--workers 20 --active 10 --seeds 3)
apart=(--heterogeneity 0.5)
shares=(--shares 0.1 0.2 0.3 0.4 0.49)
main=(--attacks sign_flip gaussian same_value label_flip ipm stale_replay flood)
rules=(undefended rsa median trimmed_mean geometric_median krum multi_krum centered_clipping)
rules+=("nnm + trimmed_mean" "nnm + geometric_median")
two=(--defences undefended "nnm + trimmed_mean")
psi=("rsa, psi = 0.03" "rsa, psi = 0.1" "rsa, psi = 0.3" "rsa, psi = 1")

mkdir -p "$out"
bench three-of-ten "${ten[@]}" "${apart[@]}" "${two[@]}"
bench three-of-ten-alike "${ten[@]}" --heterogeneity 0 "${two[@]}"
bench shares "${twenty[@]}" "${apart[@]}" "${shares[@]}" "${main[@]}" \
    --defences undefended multi_krum "nnm + trimmed_mean"
bench all "${twenty[@]}" --active 10 20 --heterogeneity 0 0.5 "${shares[@]}" --defences "${rules[@]}"
bench psi "${twenty[@]}" "${apart[@]}" "${main[@]}" \
    --defences undefended rsa "${psi[@]}" "nnm + trimmed_mean"
bench pooled --variants pooled --workers 10 --active 5 --seeds 4 "${apart[@]}" "${main[@]}" \
    --defences undefended rsa multi_krum "nnm + trimmed_mean" "nnm + geometric_median"
"$python" benchmarks/aggregation.py | tee "$out/aggregation.md"
"$(dirname "$python")/asyndbt" plot robustness "$out/shares.csv" -o "$out/shares.png"
