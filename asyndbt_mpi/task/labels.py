"""Which class the value of a label column stands for, and the text of its label."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import check_line
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.inputs.toml import toml_string

MOST_TAKEN = 200
"""Classes that are taken from the data: more are likely to be texts."""
FEW = 20
"""Different values that are never too many for the number of rows."""
LONGEST_TAKEN = 60
"""Characters of a value that becomes a label."""

LONGEST_SHOWN = 30
"""Characters shown of a value: a longer one may be a private text."""
MOST_SHOWN = 5
"""Values shown."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The labels, and the class number of every value that stands for one."""

    labels: list[str]
    number_of: Mapping[str, int]


def value_of(cell: Any) -> str | None:
    """A whole number or text as `Classes` knows it; None for anything else."""
    if isinstance(cell, str):
        return cell.strip() or None
    return str(cell) if type(cell) is int else None


def by_name(
    values: Mapping[str, int], names: Sequence[str], task: TaskSection
) -> dict[str, str] | None:
    """The class name of each value, for data that have ``names`` for their class numbers.

    None if ``task.labels`` are by number: a list that does not have these names.
    """
    if isinstance(task.labels, list) and task.labels:
        own = {label.strip() for label in task.labels}
        if not own >= set(names):
            return None
    named = {str(number): name for number, name in enumerate(names)}
    return {value: named.get(value, value) for value in values}


def classes_of(task: TaskSection, values: Mapping[str, int]) -> Classes:
    """The classes of a data set with these ``values``, and how often each occurs.

    A value that stands for no label has no class. Values are class numbers or, for a list of
    labels, their texts without the leading space; for a table, its keys; without labels, each
    value becomes one, after a space.

    Raises
    ------
    ConfigurationError
        Numbers that are also the texts of other labels; or too many values to be labels.
    """
    if not task.labels:
        labels = taken(task, values)
        return Classes(list(labels.values()), {key: n for n, key in enumerate(labels)})
    if isinstance(task.labels, dict):
        texts = task.label_texts
        number_of = {key.strip(): texts.index(label) for key, label in task.labels.items()}
        if len(number_of) < len(task.labels):
            raise ConfigurationError(
                "task.labels: two keys of the table differ only in blanks at an end; remove one"
            )
        return Classes(texts, number_of)
    by_number = {str(number): number for number in range(len(task.labels))}
    by_text = {label.strip(): number for number, label in enumerate(task.labels)}
    without_number, without_text = (
        sum(count for value, count in values.items() if value not in known)
        for known in (by_number, by_text)
    )
    if not without_number and not without_text and _differ(by_number, by_text, values):
        raise ConfigurationError(
            f"task.labels = {task.labels}: the numbers in column {task.label_column!r} can be class"
            " numbers, counted from 0, or the labels themselves; say which by a table:"
            f" labels = {table({value: task.labels[by_text[value]] for value in sorted(values)})}"
        )
    return Classes(task.labels, by_number if without_number <= without_text else by_text)


def _differ(one: Mapping[str, int], other: Mapping[str, int], values: Collection[str]) -> bool:
    return any(one[value] != other[value] for value in values)


def taken(task: TaskSection, values: Mapping[str, int]) -> dict[str, str]:
    """Labels made of the ``values`` of the data: numbers in their order, texts by alphabet.

    Raises
    ------
    ConfigurationError
        They are too many, too long, or differ in upper and lower case only.
    """
    column, rows = task.label_column, sum(values.values())
    if len(values) > MOST_TAKEN or too_many(values):
        raise ConfigurationError(
            f"task.labels is missing, and column {column!r} has {len(values):,} different values in"
            f" {rows:,} rows, too many to be labels; is it the label column? Name that by"
            " task.label_column"
        )
    for value in values:
        if len(value) > LONGEST_TAKEN:
            raise ConfigurationError(
                f"task.labels is missing, and column {column!r} has values of more than"
                f" {LONGEST_TAKEN} characters; name the label column by task.label_column, or give"
                " task.labels"
            )
        try:
            check_line(value)
        except ValueError as error:
            raise ConfigurationError(
                f"task.labels is missing, and a value of column {column!r} {error}"
            ) from error
    spellings: dict[str, list[str]] = {}
    for value in values:
        spellings.setdefault(value.casefold(), []).append(value)
    for alike in spellings.values():
        if len(alike) > 1:
            raise ConfigurationError(
                f"task.labels is missing, and values of column {column!r} differ in upper and lower"
                f" case only: {with_counts({value: values[value] for value in sorted(alike)})};"
                f" to make them one class: labels = {table(dict.fromkeys(alike, ' ' + alike[0]))}"
            )
    if all(value.isdecimal() for value in values):
        return {value: f" {value}" for value in sorted(values, key=int)}
    return {value: f" {value}" for value in sorted(values)}


def too_many(values: Mapping[str, int]) -> bool:
    """Whether these can hardly be labels, for most occur once."""
    return len(values) > FEW and len(values) > sum(values.values()) / 2


def unknown(task: TaskSection, classes: Classes, values: Mapping[str, int]) -> str | None:
    """What is wrong with ``values`` that stand for no label; None if there is none."""
    without = Counter({v: count for v, count in values.items() if v not in classes.number_of})
    if not without:
        return None
    if too_many(values):  # perhaps texts, which are private
        return (
            f"no label stands for the values of column {task.label_column!r}, which has"
            f" {len(values):,} different ones; is it the label column?"
        )
    known = ", ".join(map(_quoted, list(classes.number_of)[: 2 * MOST_SHOWN]))
    more = ", ..." if len(classes.number_of) > 2 * MOST_SHOWN else ""
    example = f"{{ {_quoted(next(iter(without)))} = {toml_string(task.label_texts[0])}, ... }}"
    table = f"; a table names them: labels = {example}" if isinstance(task.labels, list) else ""
    return (
        f"no label stands for {task.label_column} = {with_counts(dict(without.most_common()))};"
        f" known are {known}{more}{table}"
    )


def with_counts(values: Mapping[str, int]) -> str:
    """Such as "a" (3 rows), "b" (1 row); the first few."""
    parts = [
        f"{_quoted(value)} ({count:,} row{'s' if count != 1 else ''})"
        for value, count in list(values.items())[:MOST_SHOWN]
    ]
    more = len(values) - MOST_SHOWN
    return ", ".join(parts) + (f" and {more:,} more" if more > 0 else "")


def table(labels: Mapping[str, str]) -> str:
    """A TOML table in one line."""
    cells = [f"{toml_string(key)} = {toml_string(label)}" for key, label in labels.items()]
    return "{ " + ", ".join(cells) + " }"


def _quoted(value: str) -> str:
    """A value, unless it is long: then it may be a private text."""
    return toml_string(value) if len(value) <= LONGEST_SHOWN else "a long text"
