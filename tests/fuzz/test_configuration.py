import pytest

from tests.fuzz.configuration import KINDS, fuzz


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_wrong_is_one_clean_line(seed: int) -> None:
    outcomes = fuzz(seed, 2000)
    for kind in KINDS:  # it is neither let through nor refused throughout
        assert outcomes[f"{kind} accepted"]
        assert outcomes[f"{kind} refused"]
