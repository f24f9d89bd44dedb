"""[privacy] with losses of functions, which may be negative: epsilon holds, whatever they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import asyndbt_mpi as adbt
from asyndbt_mpi.inputs.trust import Privacy
from asyndbt_mpi.log.home import read
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol import noise
from asyndbt_mpi.protocol.blackbox import Answer
from asyndbt_mpi.protocol.ranges import FREE_LOSS

Loss = Callable[[int, np.ndarray, np.ndarray], np.ndarray]

PRIVACY = Privacy(noise=3.0, clip=0.5)
SAMPLES = 4
SHAPES = adbt.Shapes(3, 5, 2, 4)
SETTINGS = (
    *("log.private=true", "privacy.noise=0.2", "privacy.clip=1", "run.iterations=24"),
    *("run.evaluate_every=6", "algorithm.plane_period=4", "algorithm.active_workers=2"),
    *("delay.model=lognormal", "delay.mean=1"),
)

any_losses = st.floats(FREE_LOSS.least, FREE_LOSS.most) | st.floats(-3.0, 3.0)


def released(monkeypatch: pytest.MonkeyPatch, numbers: float, losses: np.ndarray) -> np.ndarray:
    """What is released of a step's ``losses`` if all normal ``numbers`` were so."""
    monkeypatch.setattr(noise, "normal", lambda count: np.full(count, numbers))
    answer = Answer(losses, np.full(len(losses), np.nan), 0, 0)
    return noise.Noise(PRIVACY, {}).heard(answer, is_evaluation=False).losses


@given(arrays(float, (2, SAMPLES), elements=any_losses))
def test_the_noise_is_as_large_as_any_losses_can_differ(losses: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        one, other = (released(monkeypatch, 0.0, each) for each in losses)
        scale = released(monkeypatch, 1.0, losses[0]) - one
    sensitivity = PRIVACY.clip * SAMPLES**0.5
    assert np.linalg.norm(one - other) <= sensitivity * (1 + 1e-12)
    np.testing.assert_allclose(scale, PRIVACY.noise * sensitivity, rtol=1e-9)


@given(st.tuples(any_losses, any_losses))
def test_so_is_that_of_a_prompt(losses: tuple[float, float]) -> None:
    """Of a function there is no accuracy, whose part of the noise is left."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(noise, "normal", np.zeros)
        answers = [Answer(np.array([loss]), np.array([np.nan]), 0, 0) for loss in losses]
        heard = [noise.Noise(PRIVACY, {}).heard(each, True).losses[0] for each in answers]
    assert abs(heard[0] - heard[1]) <= PRIVACY.clip


def raw(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> np.ndarray:
    """From -2.5 to 2: most are negative."""
    return words.mean(axis=1) - 2.5 + 0.5 * (demonstrations[:, 0] == worker)


def clipped(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> np.ndarray:
    return raw(worker, words, demonstrations).clip(0.0, 1.0)


def run(folder: Path, loss: Loss, monkeypatch: pytest.MonkeyPatch, *settings: str) -> Path:
    """A run of which everything is known, the noise too."""
    generator = np.random.default_rng(5)
    monkeypatch.setattr(noise, "normal", generator.standard_normal)
    box = adbt.LossFunction(loss, SHAPES, list("abcde"), name="a function")
    path = folder / f"{loss.__name__}.h5"
    adbt.simulate(
        adbt.load("synthetic", [*SETTINGS, *settings]), output=path, black_box=box, overwrite=True
    )
    return path


def difference(one: Path, other: Path) -> list[str]:
    with Log(one) as a, Log(other) as b:
        columns = [column.path for group in a.groups.values() for column in group]
        assert a.committed == b.committed == 24
        return [
            path
            for path in columns
            if not np.array_equal(a[path], b[path], equal_nan=a[path].dtype.kind == "f")
        ]


def test_nothing_tells_losses_outside_the_clip_from_those_at_its_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same noise the logs of both are the same, number by number."""
    paths = [run(tmp_path, loss, monkeypatch) for loss in (raw, clipped)]
    assert difference(*paths) == []
    kept = [read(Path(f"{path}.home") / "worker-1.jsonl").kept for path in paths]
    least = [min(each.losses.min() for each in of_one) for of_one in kept]
    assert least[0] < -1 < least[1] == 0  # its own file has the losses as they were


def test_without_noise_they_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [run(tmp_path, each, monkeypatch, "privacy.noise=0") for each in (raw, clipped)]
    assert "report/loss" in difference(*paths)
