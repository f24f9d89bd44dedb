"""Findings as lines, and the facts of a rank on their way to rank 0."""

from dataclasses import replace

from asyndbt_mpi.doctor.facts import Facts
from asyndbt_mpi.doctor.findings import merged, ok, problem, ranks_in_words
from tests.doctor.hand import gpu, job


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
