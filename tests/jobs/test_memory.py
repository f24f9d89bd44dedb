import pytest

from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.config import ConfigurationError, load, presets
from asyndbt_mpi.jobs import memory
from asyndbt_mpi.jobs.memory import check_memory, machine_memory
from asyndbt_mpi.protocol.messages import Shapes

GIB = 2**30


def refusal(*settings: str, workers: int = 3) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepare(load("synthetic", settings), workers)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    "setting",
    ["prompt.fragment_length", "prompt.pool", "algorithm.max_planes", "estimator.samples"],
)
@pytest.mark.parametrize("value", [10**9, 2**31 - 1])
def test_what_no_machine_holds_is_refused_with_the_key_to_lower(setting: str, value: int) -> None:
    said = refusal(f"{setting}={value}")
    assert said.startswith(f"{setting} = {value}: the run needs ")
    assert said.endswith(f"; lower {setting}")


@pytest.mark.parametrize("setting", ["algorithm.max_planes", "estimator.samples", "prompt.pool"])
def test_what_no_array_can_have_is_refused_by_its_range(setting: str) -> None:
    for value in (2**63 - 1, 10**30):
        with pytest.raises(ConfigurationError, match=f"{setting} = .*less than or equal to"):
            load("synthetic", [f"{setting}={value}"])


def test_the_number_of_workers_counts() -> None:
    assert refusal(workers=10**12).endswith("; lower the number of workers")


def test_samples_take_memory_by_their_square_where_they_are_compared() -> None:
    settings = ["estimator.samples=100000", "steps.optimizer=sgd"]
    assert "the covariance of an assignment's samples" in refusal(*settings)
    prepare(load("synthetic", [*settings, "estimator.name=loo"]), 3)


@pytest.mark.parametrize("name", presets())
def test_usual_runs_fit_into_a_small_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 2 * GIB)
    check_memory(load(name), Shapes(75, 200, 3, 50, 20), workers=1000)


def test_the_numbers_are_those_of_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes of 4 workers and the consensus, a byte for each of 8 x 16 coefficients."""
    monkeypatch.setattr(memory, "machine_memory", lambda: GIB)
    planes = 4 * GIB // (5 * 8 * 16)
    said = refusal(f"algorithm.max_planes={planes}", workers=4)
    assert "of which the cutting planes 4 GiB, and this machine has 1 GiB" in said


def test_a_report_fits_into_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 2**60)
    said = refusal("prompt.fragment_length=100000000")
    assert "a message can have at most 2 GiB; lower prompt.fragment_length" in said


def test_the_machine_has_memory() -> None:
    assert 2**28 < machine_memory() < 2**60
