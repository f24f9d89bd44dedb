# shellcheck shell=bash
# How a job places its ranks, starts them, and comes back before its time is up.

# The number by which Slurm knows this job alone: an array's last element has the array's own.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

# Slurm's word that time is nearly up; it may come at any moment.
signalled='' started=''
trap time_is_up USR1

time_is_up() {
    signalled=yes
    echo "$(date '+%F %T') Slurm says that the time of job $job is nearly up"
    [ -z "$started" ] || kill -USR1 "$started"
}

refuse() {
    echo "launch.sh: $*" >&2
    exit 2
}

# The host of every rank, a line each: the server and the workers of the first node, then the
# workers of the others.
hosts_of_ranks() {
    local workers=${WORKERS_PER_NODE:-$((${SLURM_GPUS_ON_NODE:-0} * ${WORKERS_PER_GPU:-1}))}
    local server=1 number ranks listed
    local -a nodes counts
    listed=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    mapfile -t nodes <<<"$listed"
    listed=$(tasks_of_nodes)
    mapfile -t counts <<<"$listed"
    if ((${#nodes[@]} != ${#counts[@]})); then
        refuse "SLURM_TASKS_PER_NODE=$SLURM_TASKS_PER_NODE is not about ${#nodes[@]} nodes"
    fi
    for number in "${!nodes[@]}"; do
        ranks=${counts[number]}
        if ((workers)); then
            if ((ranks < workers + server)); then
                refuse "${nodes[number]} has $ranks tasks, but its workers and the server need" \
                    "$((workers + server)): ask for --ntasks-per-node=$((workers + 1))," \
                    "or set WORKERS_PER_NODE"
            fi
            ranks=$((workers + server))
        fi
        for ((; ranks; ranks--)); do
            echo "${nodes[number]}"
        done
        server=0
    done
}

# How many tasks each node may have, a line each, out of Slurm's short form: 2(x3),1.
tasks_of_nodes() {
    local part times
    for part in ${SLURM_TASKS_PER_NODE//,/ }; do
        if ! [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]]; then
            refuse "SLURM_TASKS_PER_NODE=$SLURM_TASKS_PER_NODE is not understood"
        fi
        for ((times = ${BASH_REMATCH[3]:-1}; times; times--)); do
            echo "${BASH_REMATCH[1]}"
        done
    done
}

# Place the ranks of this job: write the hosts of all into a file, named in $hosts, and say it.
place() {
    if [ -n "${SLURM_GPUS_PER_TASK:-}" ] ||
        { [ -n "${SLURM_GPUS:-}" ] && ((SLURM_NNODES > 1)); }; then
        refuse "ask for GPUs by node, --gpus-per-node: the server needs none, and nodes are alike"
    fi
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    hosts=$scratch/hosts
    hosts_of_ranks >"$hosts"
    # An mpiexec that was killed leaves a folder in the way of the next with its process number.
    export PRTE_MCA_prte_local_tmpdir_base=$scratch
    echo "$(date '+%F %T') job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)):" \
        "$(wc -l <"$hosts") ranks by $LAUNCHER on" \
        "$(uniq -c "$hosts" | awk '{print $2 " (" $1 ")"}' | paste -sd ' ')," \
        "GPUs of a node: ${CUDA_VISIBLE_DEVICES:-none}"
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
        if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
            export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun does not take over by itself
        fi
        # shellcheck disable=SC2086 # several words
        exec srun --mpi="${SRUN_MPI:-pmix}" ${SRUN_OPTIONS-} \
            --distribution=arbitrary --ntasks="$ranks" "$@"
        ;;
    *)
        refuse "LAUNCHER=$LAUNCHER: give mpiexec or srun"
        ;;
    esac
}

# Make, or resume, the run of `asyndbt run ARGUMENTS...` under MPI. When Slurm says that time
# is nearly up, it commits and stops. Whatever ends it early, the job is requeued to go on where it
# was, as long as every start commits something, and at most MAX_RESTARTS times.
run_or_requeue() {
    local before after code
    if iterations "$@"; then
        return 0
    fi
    before=$count
    place
    if [ -z "$signalled" ]; then
        # shellcheck disable=SC2086 # several words
        launch "$hosts" ${CONTAINER-} asyndbt run "$@" --resume &
        started=$!
        [ -z "$signalled" ] || kill -USR1 "$started"
        trap 'kill -TERM "$started"' TERM
        # A signal ends wait, not what is waited for.
        while kill -0 "$started" 2>/dev/null; do
            wait "$started" || true
        done
        wait "$started" && code=0 || code=$?
        trap - TERM
    fi
    # The launcher's exit code is no proof: mpiexec's is 0, too, when it has lost a node.
    if iterations "$@"; then
        return 0
    fi
    after=$count
    if ((${code:-0} != 2 && after > before)); then
        requeue
    else
        echo "launch.sh: not requeued, for this start has committed no iteration" >&2
    fi
    exit $((${code:-0} ? code : 1))
}

# Whether the run is at its end; its iterations so far are in $count.
iterations() {
    local line code
    # shellcheck disable=SC2086 # several words
    line=$(${CONTAINER-} asyndbt status "$@") && code=0 || code=$?
    if ((code > 1)); then
        exit "$code" # the configuration is wrong, and that has been said
    fi
    echo "$line"
    count=0
    if [[ $line =~ \ ([0-9]+)\ of\ at\ most\ [0-9]+\ iterations$ ]]; then
        count=${BASH_REMATCH[1]}
    fi
    return "$code"
}

# Ask Slurm to start this job again; it kills what is left of it now.
requeue() {
    local restarts=${SLURM_RESTART_COUNT:-0} state
    # A job that is cancelled is not to come back, and one that Slurm itself has requeued does.
    state=$(squeue -h -j "$job" -o %T) || state=RUNNING
    if [ "$state" != RUNNING ]; then
        return
    fi
    if ((restarts >= ${MAX_RESTARTS:-20})); then
        echo "launch.sh: not requeued after $restarts restarts (MAX_RESTARTS);" \
            "submit the same line again to resume the run" >&2
        exit 1
    fi
    echo "$(date '+%F %T') job $job asks to be requeued"
    if ! scontrol requeue "$job"; then
        echo "launch.sh: not requeued; submit the same line again to resume the run" >&2
        exit 1
    fi
    sleep infinity & # until Slurm ends the job: to leave could count as its end
    wait
}
