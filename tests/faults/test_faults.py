"""A few of the faults, as part of every test run; `make faults` has them all."""

from pathlib import Path

import pytest

from tests.cli.test_commands import ENVIRONMENT, needs_mpiexec
from tests.faults import scenarios

pytestmark = [needs_mpiexec, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def _few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "fault",
    [
        scenarios.kill_all_but_one,
        scenarios.kill_too_many,
        scenarios.exception_in_a_worker,
        scenarios.excluded_below_min_workers,
        scenarios.off_the_simplex,
        scenarios.without_ulfm,
        scenarios.stopped_and_back,
        scenarios.signalled,
    ],
)
def test_a_run_gets_over_it(fault, tmp_path: Path) -> None:
    outcome = fault(tmp_path / "run")
    assert (outcome.lost, outcome.repeated) == (0, 0)


def test_a_run_gets_over_kills_at_random_moments(tmp_path: Path) -> None:
    outcome = scenarios.random_kills(tmp_path / "run", kills=4)
    assert (outcome.lost, outcome.repeated) == (0, 0)
