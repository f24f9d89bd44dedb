import numpy as np

from asyndbt_mpi.llm.local.labels import label_tree
from asyndbt_mpi.llm.local.packing import (
    Group,
    Row,
    Tail,
    batches,
    fill_rows,
    group_by_context,
    lay_out,
)

A, B, C, D = 1, 2, 3, 4


def test_labels_that_begin_alike_share_nodes_and_steps() -> None:
    tree = label_tree([[A], [B, A], [B, A, C], [B, D], [A, B]])
    assert tree.tokens.tolist() == [A, B, A]  # prefixes A, B and BA
    assert tree.depth.tolist() == [1, 1, 2]
    assert tree.visible.tolist() == [
        [True, False, False],
        [False, True, False],
        [False, True, True],
    ]
    assert len(tree.step_token) == 6  # A, AB, B, BA, BAC, BD
    steps = [
        [(tree.step_source[step], tree.step_token[step]) for step in own]
        for own in tree.label_steps
    ]
    assert steps == [
        [(0, A)],
        [(0, B), (2, A)],
        [(0, B), (2, A), (3, C)],
        [(0, B), (2, D)],
        [(0, A), (1, B)],
    ]


def test_log_probabilities_of_labels_are_sums_normalised() -> None:
    tree = label_tree([[A], [B, A]])
    steps = np.log([[0.5, 0.4, 0.1], [0.2, 0.1, 1.0]])  # A, B, BA
    found = np.exp(tree.log_probabilities(steps))
    np.testing.assert_allclose(found, [[0.5 / 0.54, 0.04 / 0.54], [0.2 / 0.3, 0.1 / 0.3]])


def test_an_impossible_step_makes_a_label_impossible_and_not_nan() -> None:
    tree = label_tree([[A], [B, A]])
    with np.errstate(divide="ignore"):
        found = tree.log_probabilities(np.log([[0.5, 0.0, 1.0]]))
    np.testing.assert_array_equal(np.exp(found), [[1.0, 0.0]])


def test_groups_share_the_longest_common_prefix_but_leave_a_token_each() -> None:
    sequences = [[A, B, C], [A, B], [C, A, D], [A, B, C, D], [C, A, C], [D, D], [A], [B]]
    groups = group_by_context(["x", "x", "y", "x", "y", "alone", "z", "z"], sequences)
    assert groups == [
        Group([A], [Tail(0, [B, C]), Tail(1, [B]), Tail(3, [B, C, D])]),
        Group([C, A], [Tail(2, [D]), Tail(4, [C])]),
        Group([], [Tail(5, [D, D]), Tail(6, [A]), Tail(7, [B])]),
    ]


def test_rows_are_about_equally_long_and_hold_every_tail_once() -> None:
    generator = np.random.default_rng(0)
    tails = [Tail(i, [0] * n) for i, n in enumerate(generator.integers(1, 40, 50).tolist())]
    rows = fill_rows(3, Group([A], tails), nodes=2, capacity=256)
    lengths = [row.length for row in rows]
    assert lengths == [sum(len(tail.tokens) + 2 for tail in row.tails) for row in rows]
    assert max(lengths) - min(lengths) <= 5
    assert max(lengths) <= 1.1 * 256
    assert {row.group for row in rows} == {3}
    assert sorted(tail.prompt for row in rows for tail in row.tails) == list(range(50))


def test_a_tail_longer_than_a_row_gets_one() -> None:
    rows = fill_rows(0, Group([A], [Tail(0, [B] * 9), Tail(1, [B])]), nodes=0, capacity=4)
    assert [row.length for row in rows] == [9, 1]
    assert len(fill_rows(0, Group([A], [Tail(0, [B] * 9)]), nodes=0, capacity=4)) == 1


def test_batches_are_bounded_with_their_pads_and_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 200).tolist()
    for limit in (1, 64, 500):
        found = batches(lengths, lambda length: length, 7, limit)
        assert sorted(length for batch in found for length in batch) == sorted(lengths)
        for batch in found:
            assert len(batch) == 1 or len(batch) * (max(batch) + 7) <= limit
            assert min(batch) * 2 >= max(batch)


def test_a_layout_keeps_tails_and_labels_apart() -> None:
    tree = label_tree([[A, B], [C, D]])
    rows = [
        Row(1, [Tail(0, [5, 6]), Tail(1, [7])], 7),
        Row(0, [Tail(2, [8])], 3),
    ]
    layout = lay_out(rows, [3, 2], tree)
    assert layout.tokens.tolist() == [[5, 6, A, C, 7, A, C], [8, A, C, 0, 0, 0, 0]]
    assert layout.positions.tolist() == [[2, 3, 4, 4, 2, 3, 3], [3, 4, 4, 0, 0, 0, 0]]
    seen = [["".join("01"[int(mark)] for mark in line) for line in row] for row in layout.visible]
    assert seen[0] == [
        "110" + "1000000",
        "110" + "1100000",
        "110" + "1110000",
        "110" + "1101000",
        "110" + "0000100",
        "110" + "0000110",
        "110" + "0000101",
    ]
    assert seen[1] == [
        "111" + "1000000",
        "111" + "1100000",
        "111" + "1010000",
        "000" + "0001000",
        "000" + "0000100",
        "000" + "0000010",
        "000" + "0000001",
    ]
    assert layout.prompts.tolist() == [0, 1, 2]
    assert layout.rows.tolist() == [[0], [0], [1]]
    assert layout.columns.tolist() == [[1, 2, 3], [4, 5, 6], [0, 1, 2]]
