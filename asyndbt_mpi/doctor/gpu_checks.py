"""Checks of how GPUs are distributed over the ranks."""

from collections.abc import Sequence

from asyndbt_mpi.doctor.facts import Facts, Gpus
from asyndbt_mpi.doctor.findings import Finding, grouped, ok, problem, ranks_in_words, warning
from asyndbt_mpi.inputs.sections import Llm

GIBIBYTE = 2**30


def check_gpus(facts: Sequence[Facts], llm: Llm) -> list[Finding]:
    """Missing, shared, idle and wasted GPUs, node by node."""
    known = [(each, each.gpus) for each in facts if each.gpus is not None]
    workers = [(each, gpus) for each, gpus in known if each.works]
    if not workers:
        return []
    if llm.backend != "transformers":
        return _needless(known, f"llm.backend = {llm.backend!r}")
    found = [*_no_such_device(workers, llm), *_promised_in_vain(workers, llm)]
    for members in grouped(known, lambda pair: pair[0].process.node).values():
        of_node = [pair for pair in members if pair[0].works]
        found += _shared(of_node)
        if facts[0].process.size > 1:  # one process does not show what others would use
            found += [*_idle(of_node), *_wasted_on_the_server(members)]
    return found or [_all_well(workers)]


Pairs = Sequence[tuple[Facts, Gpus]]


def _needless(known: Pairs, why: str) -> list[Finding]:
    asked = [each.rank for each, gpus in known if gpus.asked]
    if not asked:
        return [ok("GPUs", f"none needed with {why}")]
    text = f"{ranks_in_words(asked)} were promised GPUs, which {why} does not use"
    return [warning("GPUs", text, "request none from the batch system")]


def _no_such_device(workers: Pairs, llm: Llm) -> list[Finding]:
    found = []
    wrong = [pair for pair in workers if pair[1].wrong]
    for (why, cuda), pairs in grouped(wrong, lambda pair: (pair[1].wrong, pair[1].cuda)).items():
        text = f"{ranks_in_words(each.rank for each, _ in pairs)}: {why}"
        hint = ""
        if llm.device.startswith("cuda"):
            ask = "request GPUs from the batch system (--gpus-per-node), or set llm.device = 'auto'"
            hint = ask if cuda else _torch_hint(pairs[0][1])
        found.append(problem("GPUs", text, hint))
    return found


def _promised_in_vain(workers: Pairs, llm: Llm) -> list[Finding]:
    """GPUs that the batch system or the user provided, but torch does not see."""
    found = []
    blind = [pair for pair in workers if not pair[1].seen and not pair[1].wrong]
    blind = [pair for pair in blind if pair[1].asked or pair[1].on_node]
    for (asked, cuda), pairs in grouped(
        blind, lambda pair: (pair[1].asked.partition("=")[0], pair[1].cuda)
    ).items():
        where = ranks_in_words(each.rank for each, _ in pairs)
        one = pairs[0][1]
        if llm.device == "cpu":
            if asked:
                text = f"promised to {where} ({one.asked}), but llm.device = 'cpu'"
                found.append(warning("GPUs", text, "set llm.device = 'auto', or request none"))
            continue
        promise = f"promised to {where} ({one.asked})" if asked else f"on the node of {where}"
        text = f"{promise}, but torch sees none, and the model would compute on the CPU"
        if cuda:
            text += f": the driver offers none to torch {one.torch}, built for {cuda}"
            hint = (
                "run nvidia-smi on the node; the driver may be too old, or CUDA_VISIBLE_DEVICES"
                " may name a missing device"
            )
        else:
            text += f": torch {one.torch} is built without CUDA"
            hint = _torch_hint(one)
        found.append((problem if asked else warning)("GPUs", text, hint))
    return found


def _torch_hint(gpus: Gpus) -> str:
    return f"install a torch with CUDA instead of {gpus.torch}"


def _shared(workers: Pairs) -> list[Finding]:
    """Workers of one node that compute on the same GPU."""
    found = []
    on_gpus = [pair for pair in workers if pair[1].taken]
    for taken, pairs in grouped(on_gpus, lambda pair: pair[1].taken).items():
        if len(pairs) == 1:
            continue
        facts, gpus = pairs[0]
        text = (
            f"{ranks_in_words(each.rank for each, _ in pairs)} on {facts.process.host} share"
            f" {taken}: its time, and its memory of {gpus.memory / GIBIBYTE:.0f} GiB"
        )
        hint = "start one worker per GPU, or lower llm.max_tokens_per_batch"
        found.append(warning("GPUs", text, hint))
    return found


def _idle(workers: Pairs) -> list[Finding]:
    """GPUs that workers of a node see and none of them uses."""
    seen = dict.fromkeys(uuid for _, gpus in workers for uuid in gpus.seen)
    idle = [uuid for uuid in seen if uuid not in {gpus.taken for _, gpus in workers}]
    if not idle:
        return []
    text = f"{len(idle)} of {len(seen)} on {workers[0][0].process.host} would be used by no worker"
    return [
        warning("GPUs", text, "start a worker for each, or request fewer from the batch system")
    ]


def _wasted_on_the_server(members: Pairs) -> list[Finding]:
    """GPUs that only rank 0 was given, which does not use them."""
    of_workers = {uuid for each, gpus in members if each.works for uuid in gpus.held}
    for each, gpus in members:
        wasted = [uuid for uuid in gpus.held if uuid not in of_workers]
        if not each.works and wasted:
            count = f"{len(wasted)} GPU{'s' * (len(wasted) > 1)}"
            text = (
                f"rank 0 on {each.process.host} has {count} that no worker sees, but it uses none"
            )
            hint = (
                "request GPUs per node, not per task (--gpus-per-node, not --gpus-per-task), or"
                " start workers on that node, too"
            )
            return [warning("GPUs", text, hint)]
    return []


def _all_well(workers: Pairs) -> Finding:
    on_gpus = [pair for pair in workers if pair[1].taken]
    if not on_gpus:
        return ok("GPUs", "none used and none requested: the model computes on the CPU")
    count = f"{len(on_gpus)} worker{'s' * (len(on_gpus) > 1)}"
    if len(on_gpus) < len(workers):
        rest = ranks_in_words(each.rank for each, gpus in workers if not gpus.taken)
        text = f"{count} on GPUs, but the model of {rest} computes on the CPU, far slower"
        return warning("GPUs", text, "request the same number of GPUs on every node")
    memory = min(gpus.memory for _, gpus in on_gpus) / GIBIBYTE
    each = "each on its own GPU" if len(on_gpus) > 1 else "on a GPU"
    return ok("GPUs", f"{count} {each}, of {memory:.0f} GiB")
