# shellcheck shell=bash
# How a job places its ranks, starts them, and comes back before its time is up.

# The host of every rank, a line each: the server and the workers of the first node, then the
# workers of the others.
hosts_of_ranks() {
    local -a nodes counts
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    mapfile -t counts < <(tasks_of_nodes)
    local server=1 number ranks
    local workers=${WORKERS_PER_NODE:-$((${SLURM_GPUS_ON_NODE:-0} * ${WORKERS_PER_GPU:-1}))}
    for number in "${!nodes[@]}"; do
        ranks=${counts[number]}
        if ((workers && ranks > workers + server)); then
            ranks=$((workers + server))
        elif ((ranks < workers + server)); then
            echo "launch.sh: ${nodes[number]} has room for $((ranks - server)) of $workers workers:" \
                "ask for --ntasks-per-node=$((workers + 1))" >&2
        fi
        for ((; ranks; ranks--)); do
            echo "${nodes[number]}"
        done
        server=0
    done
}

# How many tasks each node may have, a line each, out of Slurm's short form: 2(x3),1.
tasks_of_nodes() {
    local part
    for part in ${SLURM_TASKS_PER_NODE//,/ }; do
        [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]]
        local times=${BASH_REMATCH[3]:-1}
        for ((; times; times--)); do
            echo "${BASH_REMATCH[1]}"
        done
    done
}

# Become the launcher of COMMAND... on the hosts of the file given first.
launch() {
    local hosts=$1 ranks
    shift
    ranks=$(wc -l <"$hosts")
    case $LAUNCHER in
    mpiexec)
        # Unbound: the ranks of a node share its cores among themselves.
        # shellcheck disable=SC2086 # several words
        exec mpiexec ${MPIEXEC_OPTIONS---with-ft ulfm --bind-to none} \
            --hostfile "$hosts" --map-by seq -n "$ranks" "$@"
        ;;
    srun)
        unset SLURM_NTASKS_PER_NODE # srun would complain of the nodes that have fewer
        export SLURM_HOSTFILE=$hosts
        # shellcheck disable=SC2086 # several words
        exec srun --mpi="${SRUN_MPI:-pmix}" ${SRUN_OPTIONS-} \
            --distribution=arbitrary --ntasks="$ranks" "$@"
        ;;
    *)
        echo "launch.sh: LAUNCHER=$LAUNCHER: give mpiexec or srun" >&2
        exit 2
        ;;
    esac
}

# Place the ranks of this job: write the hosts of all into a file, named in $hosts, and say it.
place() {
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    hosts=$scratch/hosts
    hosts_of_ranks >"$hosts"
    # An mpiexec that was killed leaves a folder in the way of the next with its process number.
    export PRTE_MCA_prte_local_tmpdir_base=$scratch
    echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)):" \
        "$(wc -l <"$hosts") ranks by $LAUNCHER on" \
        "$(uniq -c "$hosts" | awk '{print $2 " (" $1 ")"}' | paste -sd ' ')," \
        "GPUs of a node: ${CUDA_VISIBLE_DEVICES:-none}"
}

# Make the run of `asyndbt run ARGUMENTS...` under MPI, or go on with it. When Slurm says that time
# is nearly up (SIGUSR1), it commits and stops. Whatever else ends it early, but for its own
# verdict, the job is requeued, at most MAX_RESTARTS times, to go on where it was.
run_or_requeue() {
    local started='' code
    place
    trap '[ -z "$started" ] || kill -USR1 "$started"' USR1
    trap '[ -z "$started" ] || kill -TERM "$started"' TERM
    # shellcheck disable=SC2086 # several words
    launch "$hosts" ${CONTAINER-} asyndbt run "$@" --resume &
    started=$!
    # A signal ends wait, not what is waited for.
    while kill -0 "$started" 2>/dev/null; do
        wait "$started" || true
    done
    wait "$started" && code=0 || code=$?
    trap - USR1 TERM
    # The launcher's exit code is no proof: mpiexec's is 0, too, when it has lost a node.
    if ${CONTAINER-} asyndbt status "$@"; then
        return 0
    fi
    # 1 to 3 are asyndbt's own. A job that is cancelled is not to come back, and one that Slurm
    # itself has requeued does.
    local state
    state=$(squeue -h -j "$SLURM_JOB_ID" -o %T) || state=RUNNING
    if ((code == 0 || code > 3)) && [ "$state" = RUNNING ]; then
        requeue
    fi
    exit $((code ? code : 1))
}

# Ask Slurm to start this job again; it kills what is left of it now.
requeue() {
    local restarts=${SLURM_RESTART_COUNT:-0}
    if ((restarts >= ${MAX_RESTARTS:-20})); then
        echo "launch.sh: not requeued after $restarts restarts (MAX_RESTARTS);" \
            "the same sbatch line goes on with the run" >&2
        exit 1
    fi
    echo "$(date '+%F %T') job $SLURM_JOB_ID asks to be requeued"
    if ! scontrol requeue "$SLURM_JOB_ID"; then
        echo "launch.sh: not requeued; the same sbatch line goes on with the run" >&2
        exit 1
    fi
    sleep infinity & # until Slurm ends the job: to leave could count as its end
    wait
}
