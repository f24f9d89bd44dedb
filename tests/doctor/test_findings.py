"""Findings as lines, and the facts of a rank on their way to rank 0."""

from dataclasses import replace
from pathlib import Path

import pytest

from asyndbt_mpi.commands.doctor import _plan
from asyndbt_mpi.doctor.examination import Examiner, examine
from asyndbt_mpi.doctor.facts import Facts
from asyndbt_mpi.doctor.findings import Level, merged, ok, problem, ranks_in_words
from tests.doctor.hand import gpu, job, only, process


def test_ranks_in_words() -> None:
    assert ranks_in_words([3]) == "rank 3"
    assert ranks_in_words([5, 1, 2, 0, 7, 8]) == "ranks 0-2, 5, 7, 8"


def test_a_line_has_the_subject_and_how_to_mend_it() -> None:
    assert str(ok("MPI", "fine")) == "MPI: fine"
    assert str(problem("model", "missing", "get it")) == "model: missing; get it"


def test_what_some_ranks_found_names_them_and_what_all_found_does_not() -> None:
    bad, good = problem("model", "missing", "get it"), ok("model", "there")
    lines = merged([(1, bad), (2, good), (3, bad)], {1, 2, 3})
    assert [str(line) for line in lines] == [
        "model: missing (ranks 1, 3); get it",
        "model: there (rank 2)",
    ]
    assert merged([(1, bad), (2, bad)], {1, 2}) == [bad]


def test_facts_go_through_json() -> None:
    facts = replace(job(4)[2], gpus=gpu("GPU-1"), findings=(problem("model", "é", "b"),))
    assert Facts.from_json(facts.to_json()) == facts


def test_too_few_test_rows_are_a_warning_and_labels_from_the_data_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"text": "t{n}", "label": "{"ab"[n % 2]}"}}' for n in range(200)]
    Path("rows.jsonl").write_text("\n".join(lines))
    settings = ("run.evaluate_every=1", "task.path=rows.jsonl", "task.labels=[]", "llm.device=cpu")
    plan = _plan("reviews", (*settings, "task.template=[[{fragment} ]]{text}"), None, 2, 2)
    found = examine(Examiner(process(0, 3)), plan).findings
    of_data = [str(each) for each in found if each.subject == "data" and each.level is Level.OK]
    assert of_data[1:] == [
        'data: task.labels are taken from column \'label\': { "a" = " a", "b" = " b" }'
    ]
    only(
        [each for each in found if each.level is Level.WARNING and each.subject == "data"],
        Level.WARNING, "task.test = 120, but only 20 rows are left to test on",
    )  # fmt: skip
