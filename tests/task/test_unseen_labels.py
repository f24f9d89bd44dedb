"""Labels with characters that cannot be seen are shown escaped, and as TOML they are themselves."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.task import labels


@given(st.text(min_size=1, max_size=20))
def test_a_table_of_labels_is_one_printable_line_that_toml_reads_back(text: str) -> None:
    shown = labels.table({text: f" {text}"})
    assert shown.isprintable()
    assert tomllib.loads(f"labels = {shown}")["labels"] == {text: f" {text}"}


def test_a_byte_order_mark_in_a_label_is_shown() -> None:
    assert labels.with_counts({"1\ufeff": 2}) == '"1\\ufeff" (2 rows)'
