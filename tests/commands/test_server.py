"""Runs with a model behind a server, from the command line to the log."""

from pathlib import Path

import pytest

from asyndbt_mpi.log.reader import Log
from tests.helpers import asyndbt, complaints, sets
from tests.llm.api_server import Manners, Server, serving


def run(server: Server, folder: Path, *settings: str) -> list[str]:
    base = (
        "llm.backend=openai", "llm.model=toy", f"llm.base_url={server.url}", "llm.attempts=2",
        'task.labels=[" good", " bad"]', "task.test=20", "run.iterations=3", "estimator.batch=4",
        "run.evaluate_every=1", *settings,
    )  # fmt: skip
    arguments = ["reviews", "--workers", "2", "--output", "run.h5", *sets(*base)]
    result = asyndbt("simulate", *arguments, folder=folder)
    return [f"exit code {result.returncode}", *complaints(result)]


def test_answers_without_a_label_are_logged_and_shown(tmp_path: Path) -> None:
    with serving(Manners()) as server:
        told = run(server, tmp_path, "llm.scores=answers")
    assert told[0] == "exit code 0", told
    assert any("has none of the labels" in line for line in told)
    with Log(tmp_path / "run.h5") as log:
        unrecognised, prompts = log["event/unrecognised"], log["event/prompts"]
    assert (unrecognised <= prompts).all()
    assert 0 < unrecognised.sum() < prompts.sum()
    shown = asyndbt("show", "run.h5", folder=tmp_path).stdout
    share = f"{unrecognised.sum() / prompts.sum():.1%}"
    assert f"{unrecognised.sum():,} of {prompts.sum():,} answers ({share}) named no" in shown
    for command in ("verify", "replay"):
        result = asyndbt(command, "run.h5", folder=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("manners", "told"),
    [
        (Manners(says="<think>", most=0), "toy thinks before it answers"),
        (Manners(says="Hm."), "named none of the labels ' good', ' bad' in its first"),
        (Manners(faults=['{"error": {"message": "no credit", "code": 402}}']), "no credit"),
        (Manners(faults=["<title>Log in</title>"] * 2), "a web page: Log in"),
    ],
)
def test_a_run_that_cannot_come_to_anything_ends_at_once(
    tmp_path: Path, manners: Manners, told: str
) -> None:
    with serving(manners) as server:
        lines = run(server, tmp_path)
    assert lines[0] != "exit code 0"
    assert sum(told in line for line in lines) == 1, lines
    assert len(server.done) < 100


def test_a_server_that_counts_no_tokens_cannot_overdraw_the_budget(tmp_path: Path) -> None:
    with serving(Manners(usage=False)) as server:
        told = run(
            server, tmp_path, "llm.api=completion", "run.iterations=500", "run.evaluate_every=0",
            "budget.tokens=200000",
        )  # fmt: skip
    assert told[0] == "exit code 0"
    assert any("how many tokens" in line for line in told), told
    with Log(tmp_path / "run.h5") as log:
        spent = log["event/prompt_tokens"].sum() + log["event/completion_tokens"].sum()
        assert 0 < log.committed < 500
    assert 0 < spent <= 200_000
