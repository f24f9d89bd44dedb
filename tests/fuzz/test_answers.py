from tests.fuzz.answers import fuzz


def test_every_answer_is_read_or_fails_as_it_should() -> None:
    outcomes = fuzz(1000, 5000)
    for each in ("no object", "no choice", "scored, names one", "Unusable, Unusable"):
        assert outcomes[each] > 10
