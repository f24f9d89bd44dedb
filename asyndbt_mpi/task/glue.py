"""GLUE as it comes: its own TSV files, and the columns that they and the hub have.

The presets show {sentence1} and {sentence2}. Where a template does and a table lacks them, the
columns of these five tasks are renamed, and the table has notes of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task.delimited import decoded
from asyndbt_mpi.task.tables import Record, Table, content_of

TEXTS = ("sentence1", "sentence2")
LABEL = "label"

MRPC_FILES = {"msr_paraphrase_train.txt": "train", "msr_paraphrase_test.txt": "test"}
"""Of MRPC as Microsoft offers it, from which GLUE's files are made."""

COLA_COLUMNS = ("source", LABEL, "mark", "sentence")
"""Of a file without a header."""

MOST_LEFT_OUT = 0.01
"""Share of a table's rows that may be damaged; QQP and MRPC have a few."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What some of the presets call their columns elsewhere: those for `TEXTS`, and for `LABEL`.

    ``values`` are names of the class numbers; ``beside`` are columns by which it is recognised.
    """

    presets: tuple[str, ...]
    texts: tuple[str, ...]
    label: str
    values: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


LAYOUTS = (
    Layout(("qqp",), ("question1", "question2"), "is_duplicate"),
    Layout(("qqp",), ("question1", "question2"), LABEL),
    Layout(("mrpc",), ("#1 String", "#2 String"), "Quality"),
    Layout(("qnli",), ("question", "sentence"), LABEL, {"entailment": "0", "not_entailment": "1"}),
    Layout(("cola",), ("sentence",), LABEL, beside=("source", "mark")),
    Layout(("cola", "sst2"), ("sentence",), LABEL),
)
"""The first whose columns are all there counts."""

PRESETS = {name for layout in LAYOUTS for name in layout.presets}


def shown(task: TaskSection) -> tuple[str, ...]:
    """Those of `TEXTS` that the template shows."""
    return tuple(text for text in TEXTS if f"{{{text}}}" in task.template)


def also_wanted(wanted: Collection[str] | None, task: TaskSection) -> Collection[str] | None:
    """The columns ``wanted``, and all that may stand for them; None are all that there are."""
    if wanted is None or not shown(task):
        return wanted
    return {*wanted, *(name for each in LAYOUTS for name in (*each.texts, each.label))}


def read_tsv(file: Traversable, task: TaskSection) -> Table | None:
    """A TSV as GLUE has it, in which quotation marks are text; None if it is no such file.

    Its columns have their own names. Rows with too few or too many cells are left out.

    Raises
    ------
    ConfigurationError
        It cannot be read, is not UTF-8, or has too many damaged rows.
    """
    name = str(file)
    if not shown(task) or not name.lower().endswith((".tsv", ".txt")):
        return None
    text, _ = decoded(content_of(file), name)
    lines = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    has_header = not (len(lines[0]) == 4 and lines[0][1] in ("0", "1") and lines[0][2] in ("", "*"))
    columns = [cell.strip() for cell in lines[0]] if has_header else list(COLA_COLUMNS)
    if _layout(columns, task) is None:
        return None
    rows = [(n, cells) for n, cells in enumerate(lines, start=1) if cells != [""]][has_header:]
    whole = [
        Record(number, dict(zip(columns, cells, strict=True)))
        for number, cells in rows
        if len(cells) == len(columns)
    ]
    damaged = [number for number, cells in rows if len(cells) != len(columns)]
    table = Table(name, "TSV of GLUE, separated by tabs, UTF-8", columns, whole)
    return _told(table, damaged, len(rows), f"do not have {len(columns)} cells")


def adapted(table: Table, task: TaskSection) -> Table:
    """``table`` with the columns that the presets show, if it has others of GLUE.

    Rows with an empty text are then left out.

    Raises
    ------
    ConfigurationError
        It is of another task than the preset that ``task`` is named after, or has too many
        damaged rows.
    """
    layout = _layout(table.columns, task)
    if layout is None:
        return table
    if task.name in PRESETS and task.name not in layout.presets:
        raise ConfigurationError(
            f"task.path: {table.name} has GLUE's columns of {' or '.join(layout.presets)}, but"
            f" task.name is {task.name!r}; use the preset {layout.presets[0]}"
        )
    names = dict(zip(layout.texts, TEXTS, strict=False))
    if task.label_column == LABEL:
        names[layout.label] = LABEL
    values = _values(layout, table, task)
    told = [f"{old} as {new}" for old, new in names.items() if old != new]
    told += [f"{LABEL} {old} as {new}" for old, new in values.items()]
    records = [_renamed(record, names, values) for record in table.records]
    whole = [record for record in records if _has_texts(record, task)]
    empty = [record.number for record in records if not _has_texts(record, task)]
    note = f"task.path: columns of GLUE ({' or '.join(layout.presets)}) are read: {', '.join(told)}"
    renamed = replace(
        table,
        columns=[names.get(column, column) for column in table.columns],
        records=whole,
        class_names={names.get(old, old): each for old, each in table.class_names.items()},
        notes=[note, *table.notes],
    )
    return _told(renamed, empty, len(records), "have an empty text")


def _layout(columns: Sequence[str], task: TaskSection) -> Layout | None:
    """That of a table with these ``columns``, if its template shows others, just as many."""
    texts = shown(task)
    if not texts or {*texts} <= {*columns}:
        return None
    for layout in LAYOUTS:
        if {*layout.texts, layout.label, *layout.beside} <= {*columns}:
            return layout if texts == TEXTS[: len(layout.texts)] else None
    return None


def _values(layout: Layout, table: Table, task: TaskSection) -> Mapping[str, str]:
    """Class numbers by name, for a task whose labels are listed, and not by these names."""
    by_number = isinstance(task.labels, list) and bool(task.labels)
    if not by_number or {label.strip() for label in task.label_texts} & {*layout.values}:
        return {}
    found = {cell for each in table.records if isinstance(cell := each.cells.get(LABEL), str)}
    return layout.values if found & {*layout.values} else {}


def _renamed(record: Record, names: Mapping[str, str], values: Mapping[str, str]) -> Record:
    cells = {names.get(old, old): cell for old, cell in record.cells.items()}
    if values and isinstance(cells.get(LABEL), str):
        cells[LABEL] = values.get(cells[LABEL], cells[LABEL])
    return Record(record.number, cells)


def _has_texts(record: Record, task: TaskSection) -> bool:
    """Whether none is empty; what is no text at all is not looked at here."""
    cells = [record.cells.get(text) for text in shown(task)]
    return all(not isinstance(cell, str) or bool(cell.strip()) for cell in cells)


def _told(table: Table, damaged: Sequence[int], rows: int, what: str) -> Table:
    """``table`` with a note of ``damaged`` rows, by number, that it no longer has."""
    if not damaged:
        return table
    told = f"{table.name}: {len(damaged):,} of {rows:,} rows {what}, the first is {table.unit}"
    if len(damaged) > MOST_LEFT_OUT * rows:
        raise ConfigurationError(f"{told} {damaged[0]}; is the file whole?")
    return replace(table, notes=[*table.notes, f"{told} {damaged[0]}: they are left out"])
