"""Data of malicious workers: rows with the wrong labels."""

from dataclasses import replace

from asyndbt_mpi.inputs.trust import Attack
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData


def mislabelled(data: WorkerData, attack: Attack) -> WorkerData:
    """``data`` with each label replaced by the next, where ``attack`` says so.

    "label_flip": of the rows that its prompts are scored on, but for the test rows, which are
    everybody's. "bad_demonstrations": of the demonstrations that its prompts show. Others: nowhere.
    """
    classes = len(data.pool)

    def wrong(rows: list[Row]) -> list[Row]:
        return [replace(row, label=(row.label + 1) % classes) for row in rows]

    if attack == "label_flip":
        return replace(data, train=wrong(data.train), validation=wrong(data.validation))
    if attack == "bad_demonstrations":
        return replace(data, pool=[wrong(rows) for rows in data.pool])
    return data
