"""Ways to end x features in use, each ended, resumed and compared; at one moment of several."""

import pytest

from tests.faults.matrix import ENDS, FEATURES, Matrix


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(tmp_path_factory.mktemp("matrix"), briefly=True)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("end", ENDS)
def test_a_resumed_run_is_what_it_has_to_be(matrix: Matrix, end: str, feature: str) -> None:
    assert matrix.cell(end, feature) in ("same", "whole", "over", "code 3")
