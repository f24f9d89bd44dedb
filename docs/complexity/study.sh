#!/usr/bin/env bash
# All runs and figures of docs/complexity.md: docs/complexity/study.sh [FOLDER]
# Half-done sweeps go on where they were.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-runs/complexity}
study=$here/study.toml
scaling=$here/../../analysis/scaling.py
stragglers=$here/../../analysis/stragglers.py

# Active workers S, with planes and without.
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/active" \
    --vary algorithm.active_workers=1,2,3,4,6,8
python "$scaling" "$folder/active" -o "$folder/active" --epsilon 10 3 1
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/no-planes" \
    --vary algorithm.active_workers=1,2,3,4,6,8 --set algorithm.plane_until=0
python "$scaling" "$folder/no-planes" -o "$folder/no-planes" --epsilon 10 3 1

# Tolerance epsilon: the same runs.
python "$scaling" "$folder/active" -o "$folder/tolerance" --x epsilon

# Workers R, at two active ones and synchronous.
asyndbt sweep "$study" --seeds 10 -o "$folder/workers" --vary workers=4,8,16,32,64 \
    --set algorithm.max_delay=400 --set run.iterations=4000
asyndbt sweep "$study" --seeds 10 -o "$folder/workers-no-planes" --vary workers=4,8,16,32,64 \
    --set algorithm.max_delay=400 --set run.iterations=4000 --set algorithm.plane_until=0
for workers in 4 8 16 32 64; do
    asyndbt sweep "$study" --seeds 10 -o "$folder/synchronous" --vary workers=$workers \
        --vary algorithm.active_workers=$workers --set run.iterations=400
done
for case in workers workers-no-planes synchronous; do
    python "$scaling" "$folder/$case" -o "$folder/$case" --x R --epsilon 10 3
    python "$scaling" "$folder/$case" -o "$folder/$case-each" --x R --epsilon 1 0.3 --per-worker
done

# Maximal delay tau, with a worker ten times slower than the others. Estimates in which all take
# part wait for everybody, and nobody is later than their period of 10 iterations: hence quorum.
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/delay" \
    --vary algorithm.max_delay=2,5,10,20,40,80 --set delay.slow_workers=1 \
    --set algorithm.lower_participation=quorum
python "$scaling" "$folder/delay" -o "$folder/delay" --x tau --epsilon 10 3 1

# The cheapest S under other laws of delay.
for model in constant pareto; do
    asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/laws" --vary delay.model=$model \
        --vary algorithm.active_workers=1,2,3,4,6,8
done
python "$scaling" "$folder/laws" "$folder/active" -o "$folder/laws" --x S --epsilon 3
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/slow" --set delay.slow_workers=1 \
    --vary algorithm.active_workers=1,2,3,4,6,7,8
python "$scaling" "$folder/slow" -o "$folder/slow" --epsilon 10 3

asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/quorum" --set delay.slow_workers=1 \
    --vary algorithm.active_workers=1,2,3,4,6,7,8 --set algorithm.lower_participation=quorum
python "$scaling" "$folder/quorum" -o "$folder/quorum" --epsilon 10 3

# Sampled gradients in place of exact ones.
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$folder/sampled" \
    --vary algorithm.active_workers=1,2,4,8 --set estimator.name=loo --set estimator.samples=64
python "$scaling" "$folder/sampled" -o "$folder/sampled" --epsilon 30 10

# Seconds an iteration takes, against the order statistic.
for model in constant lognormal pareto; do
    asyndbt sweep "$study" --workers 8 --seeds 5 -o "$folder/seconds" --vary delay.model=$model \
        --vary algorithm.active_workers=1,2,3,4,6,8 --set algorithm.plane_until=0 \
        --set algorithm.max_delay=1000 --set run.iterations=2000
done
asyndbt sweep "$study" --workers 8 --seeds 5 -o "$folder/seconds-slow" \
    --vary algorithm.active_workers=1,2,3,4,6,7,8 --set delay.slow_workers=1 \
    --set algorithm.plane_until=0 --set algorithm.max_delay=1000 --set run.iterations=2000
python "$stragglers" "$folder/seconds" "$folder/seconds-slow" -o "$folder/seconds"
