from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.config import load
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Candidate
from asyndbt_mpi.protocol.records import Event, EventKind
from asyndbt_mpi.view.costs import print_costs
from asyndbt_mpi.view.outcomes import outcomes
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.prompts import full_prompts
from asyndbt_mpi.view.sink import LogAndProgress
from asyndbt_mpi.view.summary import learnt_prompts, print_summary
from tests.log.simulated_run import Absence, configuration, write_log

Run = Callable[..., Path]


def summary(log: Log) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(log, console)
    return console.export_text()


def of_a_model(log: Log) -> Log:
    """The same log, as if a language model had been asked."""
    llm = log.config.llm.model_copy(update={"backend": "transformers"})
    log.config = log.config.model_copy(update={"llm": llm})
    return log


def test_the_summary_shows_what_the_log_says(virtual_run: Run) -> None:
    with Log(virtual_run(run={"iterations": 12, "evaluate_every": 4, "name": "mine"})) as log:
        text = summary(log)
        assert "mine" in text
        assert "finished after 12 iterations" in text
        calls, tokens = (int(log[f"event/{n}"].sum()) for n in ("llm_calls", "prompt_tokens"))
        assert calls >= sum(
            int(log[f"{group}/llm_calls"].sum()) for group in ("report", "lower", "evaluation")
        )
        assert f"{calls:,} calls, {tokens:,} prompt tokens" in summary(of_a_model(log))
        assert "Best so far" not in text
        for worker, (words, _) in learnt_prompts(log).items():
            line = next(line for line in text.splitlines() if line.startswith(f"│{worker:10} "))
            assert " | ".join(f"word{j}" for j in words) in line
        tuned = np.mean(list(outcomes(log)[Candidate.TUNED].losses.values()))
        assert f"{tuned:.3f}" in text


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_function_has_neither_rows_nor_tokens(virtual_run: Run, status: str) -> None:
    llm = {"backend": "synthetic", "input_price": 3.0}
    path = virtual_run(run={"iterations": 12, "evaluate_every": 4}, llm=llm)
    with h5py.File(path, "r+") as file:
        file.attrs["status"] = status
    words = " row", "token", "price"
    with Log(path) as log:
        assert not [word for word in words if word in summary(log)]
        text = summary(of_a_model(log))
    assert all(word in text for word in words)


def test_it_is_shown_where_a_phrase_ends(virtual_run: Run) -> None:
    phrases = ["a", "a b", "b", "b a", "a b a", "b b"]
    path = virtual_run(run={"iterations": 4})
    with h5py.File(path, "r+") as file:
        file["vocabulary"][:] = phrases
    with Log(path) as log:
        text = summary(log)
        for worker, (words, _) in learnt_prompts(log).items():
            line = next(line for line in text.splitlines() if line.startswith(f"│{worker:10} "))
            shown = line.split("│")[2].strip()
            assert shown.split(" | ") == [phrases[word] for word in words]


def test_what_a_cache_saved_is_said(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 4})
    with Log(path) as log:
        assert "repeats" not in summary(log)
    with h5py.File(path, "r+") as file:
        calls = file["event/llm_calls"]
        calls[:] = calls[:] // 4
    with Log(path) as log:
        assert "75% of the prompts were repeats, and free" in summary(log)


def test_the_share_of_answers_without_a_label_is_said(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 4})
    with Log(path) as log:
        asked = int(log["event/prompts"].sum())
        assert "named no label" not in summary(log)
    with h5py.File(path, "r+") as file:
        file["event/unrecognised"][3:5] = 7
    with Log(path) as log:
        text = summary(log)
    assert f"14 of {asked:,} answers ({14 / asked:.1%}) named no label or were refused" in text


def test_without_evaluation_the_last_iterate_is_shown(virtual_run: Run) -> None:
    with Log(virtual_run(run={"iterations": 12})) as log:
        text = summary(log)
        assert "Test accuracy" not in text
        last = np.flatnonzero(log["report/worker"] == 2)[-1]
        words, demonstrations = learnt_prompts(log)[2]
        np.testing.assert_array_equal(words, log["report/p"][last].argmax(axis=1))
        np.testing.assert_array_equal(demonstrations, log["report/q"][last].argmax(axis=1))


def test_iterates_that_were_left_out_are_not_shown(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 10}, log={"iterates": 1000})
    with Log(path) as log:
        assert 0 < len(learnt_prompts(log)) < 4
        summary(log)


def test_costs_in_money(virtual_run: Run) -> None:
    llm = {"backend": "synthetic", "input_price": 3.0, "output_price": 15.0}
    path = virtual_run(run={"iterations": 4}, llm=llm)
    with h5py.File(path, "r+") as file:
        file["event/prompt_tokens"][:] = file["event/completion_tokens"][:] = 0
        file["event/prompt_tokens"][-1] = 2_000_000
        file["event/completion_tokens"][-1] = 100_000
    with Log(path) as log:
        text = summary(of_a_model(log))
    assert "2,000,000 prompt tokens, 100,000 completion tokens" in text
    assert "7.50 at the prices of [llm]" in text


def test_an_unfinished_run_shows_the_best_so_far(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 12, "evaluate_every": 4})
    with h5py.File(path, "r+") as file:
        file.attrs["status"] = "interrupted"
    with Log(path) as log:
        text = summary(log)
        rows = np.flatnonzero((log["evaluation/split"] == 1) & (log["evaluation/worker"] == 2))
        best = rows[log["evaluation/loss"][rows].argmin()]
        assert log.best[2].iteration == log["evaluation/iteration"][best]
        assert log.best[2].loss == log["evaluation/loss"][rows].min()
        np.testing.assert_array_equal(log.best[2].words, log["evaluation/words"][best])
        assert sorted(log.best) == [1, 2, 3]
    assert "Best so far in validation" in text
    assert f"{log.best[2].loss:.3f}" in text


def test_only_the_tests_of_the_newest_end_are_shown(virtual_run: Run) -> None:
    """A run that had ended was resumed, and ended again."""
    path = virtual_run(run={"iterations": 12, "evaluate_every": 4})
    with Log(path) as log:
        found = outcomes(log)
        learnt = learnt_prompts(log)
    with h5py.File(path, "r+") as file:
        tests = np.flatnonzero(file["evaluation/split"][:] == 2)
        for dataset in file["evaluation"].values():
            dataset.resize(len(dataset) + len(tests), axis=0)
            dataset[-len(tests) :] = dataset[tests]
        file["evaluation/iteration"][-len(tests) :] = 9
        file["evaluation/loss"][-len(tests) :] = 99.0
        rows = file.attrs["committed_rows"]
        rows["evaluation"] += len(tests)
        file.attrs["committed_rows"] = rows
    with Log(path) as log:
        assert {c: o.losses for c, o in outcomes(log).items()} == {
            candidate: outcome.losses for candidate, outcome in found.items()
        }
        for worker, (words, _) in learnt_prompts(log).items():
            np.testing.assert_array_equal(words, learnt[worker][0])


def test_who_was_lost_and_how_often_the_run_was_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    write_log(path, configuration(), absences=(Absence(3, 10, 20),))
    with h5py.File(path, "r+") as file:
        file.attrs["starts"] = 3
    with Log(path) as log:
        text = summary(log)
    assert "worker 3 was lost in iteration 10, back in iteration 20" in text
    assert "worker 2 was excluded in iteration 30" in text
    assert "resumed 2 times" in text


def test_full_prompts_put_the_texts_together_again() -> None:
    config = load("reviews")
    materials = prepare(config, 3)

    class OneWorker:
        vocabulary = materials.vocabulary
        workers = 1

        def __getitem__(self, name: str) -> np.ndarray:
            values = {"iteration": [7], "worker": [1], "candidate": [Candidate.TUNED], "split": [2],
                      "words": [[0, 3]], "demonstrations": [[2, 5]]}  # fmt: skip
            return np.array(values.get(name.removeprefix("evaluation/"), []))

    ((worker, prompt),) = full_prompts(OneWorker(), materials.template, materials.data)
    pools, words = materials.data[1].pool, materials.vocabulary
    assert worker == 1
    fragment = f"{words[0]} {words[3]}"
    assert prompt == (
        f"Review: {pools[0][2].texts['sentence1']}\n{fragment} sentiment: negative\n\n"
        f"Review: {pools[1][5].texts['sentence1']}\n{fragment} sentiment: positive\n\n"
        f"Review: <sentence1>\n{fragment} sentiment:"
    )


HOSTILE = "[/bold]\x1b[2J\x1b]0;pwned\x07 \r[red]%s{0}:fire:\u202e"
SHOWN = r"[/bold]\x1b[2J\x1b]0;pwned\x07 \r[red]%s{0}:fire:\u202e"


def test_text_of_others_is_shown_as_text(virtual_run: Run) -> None:
    path = virtual_run(
        run={"iterations": 4, "name": "[/bold]:fire:", "evaluate_every": 2},
        prompt={"vocabulary": ["[/b]", "[red]", ":fire:", "[bold]x"], "vocabulary_size": 4},
    )
    with h5py.File(path, "r+") as file:
        file["worker/description"][0] = HOSTILE
        file["event/kind"][-1] = EventKind.CLOSING
        file["event/text"][-1] = HOSTILE
        file["vocabulary"][0] = "[/b]"
    with Log(path) as log:
        text = summary(log)
        words = {word for each, _ in learnt_prompts(log).values() for word in each}
        assert words
        assert all(log.vocabulary[word] in text for word in words)
    joined = "".join(text.split("\n"))
    assert f"[/bold]:fire: ({path})"[:60] in joined
    assert f"worker 1: {SHOWN}" in joined
    assert f"at {SHOWN}" in joined
    assert all(sign.isprintable() for sign in joined)


def test_what_a_rank_says_is_told_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    class NoWriter:
        def write(self, record: object) -> None: ...

    with Progress(load("synthetic"), 1) as progress:
        sink = LogAndProgress(NoWriter(), progress)  # type: ignore[arg-type]
        sink.write([Event(EventKind.HELLO, 1, -1, 0, 0.0, text=HOSTILE)])
        sink.write([Event(EventKind.LOST, 1, -1, 0, 0.0, text=HOSTILE)])
    said = capsys.readouterr().err
    assert f"worker 1 ({SHOWN}) is lost: {SHOWN}\n" in said


def test_costs_are_named_as_text() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_costs(HOSTILE, [("all", 1.0, 1.0, None, None)], [HOSTILE], console)
    assert console.export_text().count(r"[/bold]\x1b[2J\x1b]0;pwned\x07") == 2
