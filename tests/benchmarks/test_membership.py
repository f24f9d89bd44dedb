"""The attacks of benchmarks/membership.py find what can be found, and nothing where there is not."""

import math
from collections import defaultdict, deque
from pathlib import Path

import membership
import numpy as np
import pytest
from membership_attacks import CHAINS, SWEEPS, alike, auc, lengths, nearest, taken
from membership_models import DeafWords, Words
from membership_steps import Overheard, Step, drawn
from scipy import stats

from asyndbt_mpi.assemble import delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.inputs.trust import Privacy
from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import Answer, Completed, DataSizes
from asyndbt_mpi.protocol.messages import Split, ToWorker
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.virtual import VirtualCluster

RNG = np.random.default_rng(4)


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    members, others = np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0])
    assert auc(members, others) == pytest.approx((3 + 1 + 0.5) / 6)
    many, more = RNG.normal(0.3, 1, 50), RNG.normal(0, 1, 70)
    u = stats.mannwhitneyu(many, more).statistic
    assert auc(many, more) == pytest.approx(u / (50 * 70))


def test_the_nearest_known_loss_counts() -> None:
    known = np.array([0.5, 2.0])
    found = nearest(np.array([0.5, 1.0, 3.0]), known)
    np.testing.assert_allclose(found, [0.0, -0.5, -1.0])
    assert nearest(np.array([0.5, 1.0]), np.zeros(0)).tolist() == [0.0, 0.0]


def _mixed(
    rows: list[int], predicted: np.ndarray, batches: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (n,) of batches of ``rows``, given as candidates, and the share (n, R) of each row."""
    share = np.zeros((len(batches), len(rows)))
    for number, batch in enumerate(batches):
        share[number, batch] = 1 / len(batch)
    return (share * predicted[:, rows]).sum(axis=1), share


def test_the_rows_behind_losses_of_samples_are_found() -> None:
    rows, candidates = [3, 17, 8, 11, 0], 20
    predicted = RNG.gamma(2.0, 0.3, (80, candidates))
    batches = [RNG.permutation(5)[:3].tolist() for _ in range(80)]
    losses, share = _mixed(rows, predicted, batches)
    anything = np.ones((5, candidates), dtype=bool)
    found = taken(losses + 7, share, predicted, anything, np.random.default_rng(0))
    assert sorted(np.argsort(found)[-5:].tolist()) == sorted(rows)
    # By chance each would be one of the 5 rows in a quarter of the draws.
    np.testing.assert_allclose(found[rows], 4.0, atol=0.05)
    np.testing.assert_allclose(np.delete(found, rows), 0.0, atol=0.05)
    noise = RNG.normal(0, 50, 80)
    lost = taken(losses + noise, share, predicted, anything, np.random.default_rng(0))
    assert auc(lost[rows], np.delete(lost, rows)) < 0.8
    assert lost.min() > 0.6
    assert lost.max() < 1.6


def test_a_candidate_with_another_label_is_no_row() -> None:
    predicted = RNG.gamma(2.0, 0.3, (40, 4))
    losses, share = _mixed([0, 1], predicted, [[0], [1]] * 20)
    allowed = np.array([[True, False, True, False], [False, False, True, True]])
    found = taken(losses, share, predicted, allowed, np.random.default_rng(0))
    assert found[1] == 0.0  # although it is the second row
    assert found[0] == pytest.approx(2.0, abs=0.05)


def test_a_single_row_is_drawn_as_its_likelihood_says() -> None:
    predicted = np.array([[0.0, 0.2, 0.2], [1.0, 0.7, 0.6], [0.3, 0.6, 0.5], [0.9, 0.8, 0.7]])
    losses = np.array([0.1, 0.8, 0.4, 1.0])
    found = taken(
        losses, np.ones((4, 1)), predicted, np.ones((1, 3), bool), np.random.default_rng(0)
    )
    # Of the chain that goes from c to d by exp(-misfit of d / 2 variance of c), what it tends to.
    rest = losses[:, None] - predicted
    misfits = ((rest - rest.mean(axis=0)) ** 2).sum(axis=0)
    chances = np.exp(-misfits / (2 * misfits[:, None] / 4))
    chances /= chances.sum(axis=1, keepdims=True)
    stationary = np.linalg.matrix_power(chances, 200)[0]
    near = 3 / math.sqrt(CHAINS * SWEEPS / 2)
    np.testing.assert_allclose(found / 3, stationary, atol=near)
    assert stationary.min() > 2 * near  # else nothing was compared


def test_tokens_are_solved_for_the_lengths_of_rows() -> None:
    of_rows, of_shown, of_words = [4, 9, 7, 5], [[6, 11], [8, 3]], np.array([1.0, 2.0])
    steps = []
    for _ in range(40):
        batch, words = RNG.permutation(4)[:2], RNG.integers(0, 2, (3, 1))
        shown = RNG.integers(0, 2, (3, 2))
        samples = [(int(w[0]), *map(int, k)) for w, k in zip(words, shown, strict=True)]
        tokens = sum(of_rows[row] + of_words[word] for word, *_ in samples for row in batch)
        for word, *demonstrations in set(samples):
            each = zip(of_shown, demonstrations, strict=True)
            tokens += sum(pool[k] + of_words[word] for pool, k in each)
        steps.append(Step(1, batch, words, shown, np.zeros(3), int(tokens)))
    found = lengths(steps, of_words, (4, 2), usual=6.0)
    np.testing.assert_allclose(found, of_rows, atol=1e-9)
    assert lengths([], of_words, (4, 2), usual=6.0).tolist() == [6.0] * 4


def test_a_candidate_counts_by_the_rows_of_its_label_and_length() -> None:
    rows = [(0, 5), (0, 5), (1, 9)]
    candidates = [(0, 5), (0, 5), (0, 5), (0, 9), (1, 9), (1, 5)]
    assert alike(rows, candidates) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0, 1, 0])


def test_a_stand_in_reads_a_context_once() -> None:
    prompts = [Prompt("one two\n\n", "three"), Prompt("one two\n\n", "four five")]
    scores = Words().label_log_probabilities([*prompts, Prompt("six", "seven")], [" a", " b"])
    assert (scores.calls, scores.prompt_tokens) == (3, 2 + 1 + 2 + 1 + 1)


def test_the_seed_and_p_give_the_batches_and_half_of_the_words(tmp_path: Path) -> None:
    cell = membership.Cell("words", "as it is", iterations=24, seed=2)
    config = membership.configuration(cell, [], tests=0)
    materials, path = prepare(config, 3), tmp_path / "run.h5"
    machines, box = workers_with_black_box(config, materials, [1, 2, 3], Words())
    machines.gradients = heard = Overheard(machines)
    server = Server(config, materials.shapes, 3)
    sizes = config, materials.shapes, 3, materials.vocabulary
    with Writer(path, *sizes, "virtual", server.algorithm.z) as writer:
        cluster = VirtualCluster(server, machines, box, delays_of_workers(config, 3))
        cluster.run(writer.write_all)
    same = []
    with Log(path) as log:
        for worker in (1, 2, 3):
            batches, words, replaced = drawn(log, worker, box.data_sizes)
            own = [step for step in heard.steps if step.worker == worker][: len(batches)]
            assert len(own) > 8
            np.testing.assert_array_equal(batches, [step.rows for step in own])
            asked = np.array([step.words for step in own])
            np.testing.assert_array_equal(words[~replaced], asked[~replaced])
            assert 0.3 < replaced.mean() < 0.7
            same.append((words == asked)[replaced].mean())
    assert np.mean(same) > 2 / 8  # of 8 words; without knowledge one would be right


@pytest.mark.parametrize("setting", membership.SETTINGS)
def test_what_is_overheard_follows_from_losses_seed_and_what_rank_0_sent(setting: str) -> None:
    cell = membership.Cell("words", setting, iterations=8, seed=1)
    config = membership.configuration(cell, membership.SETTINGS[setting], tests=0)
    materials, everyone = prepare(config, 3), [1, 2, 3]
    machines, box = workers_with_black_box(config, materials, everyone, Words())
    machines.gradients = heard = Overheard(machines)
    # In order, what was sent, or in its place who answered, and to what.
    happened: list[list[tuple[int, ToWorker]] | list[tuple[int, bool]]] = []
    receive, answer = machines.receive, machines.answer

    def receiving(messages):  # type: ignore[no-untyped-def]
        happened.append(list(messages))
        return receive(messages)

    def answering(completed):  # type: ignore[no-untyped-def]
        happened.append([(done.worker, len(done.answer.losses) > 1) for done in completed])
        return answer(completed)

    machines.receive, machines.answer = receiving, answering  # type: ignore[method-assign]
    delays, server = delays_of_workers(config, 3), Server(config, materials.shapes, 3)
    VirtualCluster(server, machines, box, delays).run(lambda records: None)

    rows = {Split.TRAIN: 20, Split.VALIDATION: 20, Split.TEST: 0, Split.RACE: 40}
    sizes = {worker: DataSizes(np.array([8, 8]), rows) for worker in everyone}
    without_noise = config.model_copy(update={"privacy": Privacy()})
    again = Workers(without_noise, materials.shapes, sizes)
    again.gradients = drawn = Overheard(again)
    for worker in everyone:
        again.hello(worker, "")
    losses = defaultdict(deque)
    for step in heard.steps:
        losses[step.worker].append(step.losses)
    for each in happened:
        if isinstance(each[0][1], bool):
            known = {worker: losses[worker].popleft() for worker, is_step in each if is_step}
            told = [(worker, known.get(worker, np.zeros(1))) for worker, _ in each]
            answers = [
                (worker, Answer(these, np.zeros(len(these)), 0, 0)) for worker, these in told
            ]
            again.answer([Completed(worker, each, 0.0, 0.0) for worker, each in answers])
        else:
            again.receive(each)
    assert len(drawn.steps) == len(heard.steps) > 10
    for mine, step in zip(drawn.steps, heard.steps, strict=True):
        assert mine.worker == step.worker
        np.testing.assert_array_equal(mine.rows, step.rows)
        np.testing.assert_array_equal(mine.words, step.words)
        np.testing.assert_array_equal(mine.demonstrations, step.demonstrations)


@pytest.mark.long
def test_log_private_hides_the_losses_of_rows_and_not_what_rows_there_are() -> None:
    found = {
        setting: membership.run(membership.Cell("words", setting, 64, seed=1), Words())
        for setting in membership.SETTINGS
    }
    assert found["as it is"]["rows"] > 0.65
    assert found["log.private"]["rows"] < 0.6
    assert found["log.private"]["samples"] > 0.75
    assert found["noise 8"]["samples"] < 0.7
    for each in found.values():
        assert each["lengths"] > 0.7
        assert 0 <= each["accuracy"] <= 1


@pytest.mark.long
def test_means_give_rows_away_where_prompts_do_not_matter_unless_there_is_noise() -> None:
    found = {
        setting: membership.run(membership.Cell("deaf", setting, 32, seed=0), DeafWords())
        for setting in ("log.private", "noise 8")
    }
    for attack in ("means", "samples"):
        assert found["log.private"][attack] > 0.9
        assert found["noise 8"][attack] < 0.8


def test_an_interval_is_students() -> None:
    assert membership.interval(np.array([0.4, 0.6]), 2) == "0.50 ± 1.27"
