"""Two workers on one GPU, in a run over MPI."""

import re
from pathlib import Path

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from tests.helpers import needs_mpiexec
from tests.llm.two_workers import run


@needs_mpiexec
def test_two_workers_share_a_gpu(tmp_path: Path, folder: Path) -> None:
    log, with_torch, _ = run(tmp_path, folder, "--set", "llm.device=cuda:0")
    assert with_torch == {1, 2}, "the server has no business on a GPU"
    assert verify(log).violations == []
    with Log(log) as read:
        assert (read.status, read.committed) == ("finished", 3)
        found = [
            re.search(r"cuda:0 \(.*, ([^,]*), shared by 2 workers\), float32$", text)
            for text in read.descriptions
        ]
    assert all(found), "a description does not say who shares the GPU"
    uuids = {match[1] for match in found if match}
    assert len(uuids) == 1
    assert uuids.pop().startswith(("GPU-", "MIG-"))
