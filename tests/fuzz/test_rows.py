from tests.fuzz.rows import fuzz


def test_no_answer_on_rows_hurts_the_others_or_the_log() -> None:
    outcomes = fuzz(1000, 4)
    for each in ("taken", "refused by the server", "refused when decoded"):
        assert outcomes[each] > 2
    assert outcomes["log that is intact"] + outcomes["log with k of its own"] == 4
