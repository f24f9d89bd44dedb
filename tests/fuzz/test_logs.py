from tests.fuzz.logs import fuzz


def test_no_log_hurts_who_reads_it() -> None:
    outcomes = fuzz(1000, 30)
    assert outcomes["violations"] + outcomes["refused"] > 5
