"""The benchmark of attacks: which runs are the same, and what is kept, by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from robustness import breakdown, worst, write
from robustness_cells import Cell, kept, make, run

CELL = Cell("exact", "sign_flip", "nnm + trimmed_mean", 5, 2, 1, 3, 0.5, 0)


def test_runs_that_are_the_same_are_made_once() -> None:
    quiet = replace(CELL, attack="none")
    assert quiet.key == replace(quiet, malicious=1).key
    assert CELL.key != replace(CELL, malicious=1).key
    added_up = replace(CELL, defence="undefended")
    assert added_up.key == replace(added_up, tolerated=2).key
    assert CELL.key != replace(CELL, tolerated=2).key


def test_what_is_kept_is_of_the_honest_and_of_their_own_way() -> None:
    start = [1.0, 1.0, 1.0, 9.0, 9.0]
    found = {
        CELL.honest.key: {"start": start, "loss": [0.0, 0.0, -3.0, 50.0, 50.0]},
        CELL.key: {"start": start, "loss": [0.0, 1.0, -1.0, 70.0, 70.0]},
    }
    assert kept(found, CELL, "loss") == pytest.approx(100 * (3 - 0) / (3 + 3))


def test_a_defence_is_broken_at_the_least_share_that_keeps_too_little() -> None:
    found, cells = {}, []
    for malicious, loss in ((1, 0.05), (2, 0.2), (3, 0.0)):
        cell = replace(CELL, malicious=malicious, workers=10)
        cells.append(cell)
        found[cell.key] = {"start": [1.0] * 10, "loss": [loss] * 10}
        found[cell.honest.key] = {"start": [1.0] * 10, "loss": [0.0] * 10}
    assert breakdown(found, cells, "loss").splitlines()[-1] == "| sign_flip | 20 |"
    assert breakdown(found, cells[:1], "loss").splitlines()[-1] == "| sign_flip | - |"


def test_the_worst_attack_leaves_least_on_average_over_seeds() -> None:
    found, cells = {}, []
    for attack, losses in (("sign_flip", (0.1, 0.3)), ("ipm", (0.0, 0.5)), ("none", (0.9, 0.9))):
        for seed, loss in enumerate(losses):
            cell = replace(CELL, attack=attack, seed=seed)
            cells.append(cell)
            found[cell.key] = {"start": [1.0] * 5, "loss": [loss] * 5}
            found[cell.honest.key] = {"start": [1.0] * 5, "loss": [0.0] * 5}
    assert worst(found, cells, "loss").splitlines()[-1] == "| 2 | 75 (ipm) |"


def test_a_run_is_kept_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustness_cells.SETTINGS", ["run.iterations=8", "prompt.pool=3"])
    result = run(CELL)
    assert {len(values) for values in result.values()} == {5}
    honest = run(CELL.honest)
    found = {CELL.key: result, CELL.honest.key: honest}
    write(found, [CELL, CELL], tmp_path)
    head, line, again = (tmp_path / "robustness.csv").read_text().splitlines()
    assert "consensus_kept" in head
    assert line == again
    assert line.startswith("exact,sign_flip,nnm + trimmed_mean,5,2,1,3,0.5,0,")
    head, line = (tmp_path / "seeds.csv").read_text().splitlines()
    assert line.startswith("exact,sign_flip,nnm + trimmed_mean,5,2,1,3,0.5,2,")
    of_both = dict(zip(head.split(","), line.split(","), strict=True))
    assert float(of_both["loss_kept"]) == pytest.approx(kept(found, CELL, "loss"), abs=0.006)
    assert of_both["loss_kept"] == of_both["loss_least"]
    kept_there = [json.dumps([key, each]) for key, each in found.items()]
    (tmp_path / "cells.jsonl").write_text("\n".join(kept_there) + "\n")
    monkeypatch.setattr("robustness_cells.run", None)  # nothing is missing
    assert make([CELL, CELL.honest], tmp_path) == found
