import pytest

from tests.fuzz.messages import fuzz


@pytest.mark.parametrize("seed", [1000, 1001])
def test_no_message_hurts_the_server_or_the_honest(seed: int) -> None:
    outcomes = fuzz(seed, 5000)
    for each in ("taken", "refused by the server", "refused when decoded", "not listened to"):
        assert outcomes[each] > 30
