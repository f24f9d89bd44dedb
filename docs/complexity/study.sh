#!/usr/bin/env bash
# All runs and figures of docs/complexity.md: docs/complexity/study.sh [FOLDER]
# Interrupted sweeps resume where they were.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-runs/complexity}
runs=$folder/runs
study=$here/study.toml

# Active workers S, with planes and without.
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/active" \
    --vary algorithm.active_workers=1,2,3,4,6,8
asyndbt plot scaling "$runs/active" -o "$folder/active" --epsilon 10,3,1
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/no-planes" \
    --vary algorithm.active_workers=1,2,3,4,6,8 --set algorithm.plane_until=0
asyndbt plot scaling "$runs/no-planes" -o "$folder/no-planes" --epsilon 10,3,1

# Tolerance epsilon: the same runs.
asyndbt plot scaling "$runs/active" -o "$folder/tolerance" --x epsilon

# Workers R, at two active ones and synchronous.
asyndbt sweep "$study" --seeds 10 -o "$runs/workers" --vary workers=4,8,16,32,64 \
    --set algorithm.max_delay=400 --set run.iterations=2000
asyndbt sweep "$study" --seeds 10 -o "$runs/workers-no-planes" --vary workers=4,8,16,32,64 \
    --set algorithm.max_delay=400 --set run.iterations=4000 --set algorithm.plane_until=0
for workers in 4 8 16 32 64; do
    asyndbt sweep "$study" --seeds 10 -o "$runs/synchronous" --vary workers=$workers \
        --vary algorithm.active_workers=$workers --set run.iterations=400
done
for case in workers workers-no-planes synchronous; do
    asyndbt plot scaling "$runs/$case" -o "$folder/$case" --x R --epsilon 10,3
    asyndbt plot scaling "$runs/$case" -o "$folder/$case-each" --x R --epsilon 1,0.3 --per-worker
done

# Maximal delay tau, with a worker ten times slower than the others. Estimates in which all take
# part wait for everybody, and nobody is later than their period of 10 iterations: hence quorum.
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/delay" \
    --vary algorithm.max_delay=2,5,10,20,40,80 --set delay.slow_workers=1 \
    --set algorithm.lower_participation=quorum
asyndbt plot scaling "$runs/delay" -o "$folder/delay" --x tau --epsilon 10,3,1

# The cheapest S under other laws of delay.
for model in constant pareto; do
    asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/laws" --vary delay.model=$model \
        --vary algorithm.active_workers=1,2,3,4,6,8
done
asyndbt plot scaling "$runs/laws" "$runs/active" -o "$folder/laws" --x S --epsilon 3
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/slow" --set delay.slow_workers=1 \
    --vary algorithm.active_workers=1,2,3,4,6,7,8
asyndbt plot scaling "$runs/slow" -o "$folder/slow" --epsilon 10,3

asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/quorum" --set delay.slow_workers=1 \
    --vary algorithm.active_workers=1,2,3,4,6,7,8 --set algorithm.lower_participation=quorum
asyndbt plot scaling "$runs/quorum" -o "$folder/quorum" --epsilon 10,3

# Sampled gradients in place of exact ones.
asyndbt sweep "$study" --workers 8 --seeds 10 -o "$runs/sampled" \
    --vary algorithm.active_workers=1,2,4,8 --set estimator.name=loo --set estimator.samples=64
asyndbt plot scaling "$runs/sampled" -o "$folder/sampled" --epsilon 30,10,3

# Seconds an iteration takes, against the order statistic.
for model in constant lognormal pareto; do
    asyndbt sweep "$study" --workers 8 --seeds 5 -o "$runs/seconds" --vary delay.model=$model \
        --vary algorithm.active_workers=1,2,3,4,6,8 --set algorithm.plane_until=0 \
        --set algorithm.max_delay=1000 --set run.iterations=2000
done
asyndbt sweep "$study" --workers 8 --seeds 5 -o "$runs/seconds-slow" \
    --vary algorithm.active_workers=1,2,3,4,6,7,8 --set delay.slow_workers=1 \
    --set algorithm.plane_until=0 --set algorithm.max_delay=1000 --set run.iterations=2000
asyndbt plot stragglers "$runs/seconds" "$runs/seconds-slow" -o "$folder/seconds"
