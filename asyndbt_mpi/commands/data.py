"""`asyndbt data`: what a run would understand of its data."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from asyndbt_mpi.config import Config, ConfigurationError, load, parse
from asyndbt_mpi.inputs.files import shown
from asyndbt_mpi.inputs.sections import USUAL_WORKERS, TaskSection
from asyndbt_mpi.inputs.toml import toml_string
from asyndbt_mpi.task import guess, labels
from asyndbt_mpi.task.arrow import HUB
from asyndbt_mpi.task.dataset import Dataset, Row, build
from asyndbt_mpi.task.lengths import token_counter
from asyndbt_mpi.task.sources import Tables, read_tables
from asyndbt_mpi.task.tables import Table, is_table
from asyndbt_mpi.task.template import Template, check_labels, columns_of, without_space
from asyndbt_mpi.task.vocabulary import load_vocabulary

PROMPTS = 3
"""Rows that are shown as demonstrations."""
LONGEST = 100
"""Rows, the longest by characters, whose tokens are counted."""
MOST_VALUES = 30
"""Classes listed."""


def report(source: str, assignments: Sequence[str]) -> Iterator[str]:
    """Lines about the data of a configuration or, with a guess at its columns, of a file.

    Raises
    ------
    ConfigurationError
        A run would refuse the data. What was understood before has been yielded.
    """
    if is_table(source) or source.startswith(HUB) or Path(source).is_dir():
        yield from _of_file(source, assignments)
        return
    config = load(source, assignments)
    if config.llm.is_function:
        raise ConfigurationError(
            f"{source}: llm.backend = {config.llm.backend!r} is a function, which has no data"
        )
    if not config.task.template:
        raise ConfigurationError(f"{source}: task.template is missing")
    yield from _understood(config, read_tables(config.task))


def _of_file(path: str, assignments: Sequence[str]) -> Iterator[str]:
    if assignments:
        raise ConfigurationError("--set changes a configuration; a file alone has none")
    tables = read_tables(TaskSection(path=path))
    label = guess.label_column(tables.train)
    texts = guess.text_columns(tables.train, label or "")
    if label is None or not texts:
        yield from _tables(tables, TaskSection(path=path, label_column=label or "label"), texts)
        what = "no column looks like labels" if label is None else "no column looks like texts"
        raise ConfigurationError(f"{path}: {what}; name the columns in a [task] table")
    task = {"path": path, "template": guess.template(texts), "label_column": label}
    config = parse({"task": task}, path)
    yield from _understood(config, tables, guessed=True)
    yield ""
    yield "Guessed; to be changed and put into a configuration:"
    yield ""
    yield "[task]"
    for key, value in task.items():
        if value != TaskSection.model_fields[key].default:
            yield f"{key} = {toml_string(value)}"
    data = build(tables, config.task, texts, config.run.seed)
    yield f"labels = {labels.table(data.taken)}"
    sizes = _sizes(data, config)
    if sizes:
        yield f"# few rows, which {USUAL_WORKERS} workers share:"
        yield f"train_per_class = {sizes.train}"
        yield f"validation_per_class = {sizes.validation}"
    yield ""
    yield "[prompt]"
    yield (
        f'# vocabulary = "words.txt"   # one word or phrase a line, {config.prompt.vocabulary_size}'
        f' or more; by default "{config.prompt.vocabulary}"'
    )
    if sizes:
        yield f"pool = {sizes.pool}"


class _Sizes(NamedTuple):
    """Rows of each class that a worker trains on, validates on, and can show."""

    train: int
    validation: int
    pool: int


def _sizes(data: Dataset, config: Config) -> _Sizes | None:
    """Sizes for `USUAL_WORKERS` where the rows are too few for the defaults; None otherwise.

    Of its rows to train on, a worker can show half; half of those to judge by are left for tests.
    None, too, if there are so few that no sizes would do.
    """
    train, dev = _fewest(data)
    some_are_left = dev > USUAL_WORKERS * config.task.validation_per_class
    if _enough(train, dev, config) >= USUAL_WORKERS and some_are_left:
        return None
    share, validation = train // USUAL_WORKERS, dev // (2 * USUAL_WORKERS)
    if share < 2 or not validation:
        return None
    pool = min(share // 2, config.prompt.pool)
    return _Sizes(
        min(share - pool, config.task.train_per_class),
        min(validation, config.task.validation_per_class),
        pool,
    )


def _fewest(data: Dataset) -> tuple[int, int]:
    """Rows to train on, and to judge by, of the class that has the fewest."""
    train, dev = (Counter(row.label for row in rows) for rows in (data.train, data.dev))
    numbers = range(len(data.labels))
    return min(train[each] for each in numbers), min(dev[each] for each in numbers)


def _enough(train: int, dev: int, config: Config) -> int:
    """For how many workers a class with so many rows is enough."""
    task = config.task
    taken = task.train_per_class + config.prompt.pool
    return min(train // taken, dev // task.validation_per_class)


def _understood(config: Config, tables: Tables, guessed: bool = False) -> Iterator[str]:
    """If ``guessed``, a table follows, with sizes that may suit the data better."""
    task = config.task
    columns = columns_of(task.template)
    if task.labels:
        check_labels(task.label_texts)
    yield from _tables(tables, task, columns)
    data = build(tables, task, columns, config.run.seed)
    template = Template(task.template, data.labels)
    if tables.dev is None:
        yield (
            f"split: {len(data.train):,} rows to train on and {len(data.dev):,} to judge by"
            f" (task.split = {task.split:g})"
        )
    if data.taken:
        yield f"labels: taken from column {task.label_column!r}, after a space"
    if warning := without_space(template):
        yield f"warning: {warning}"
    yield from _classes(data, config)
    if guessed and _sizes(data, config):
        yield f"the sizes in the table below make the rows enough for {USUAL_WORKERS} workers"
    yield from _repeats(data)
    vocabulary = load_vocabulary(config.prompt.vocabulary, config.prompt.vocabulary_size)
    words = vocabulary[: config.prompt.fragment_length]
    if data.train:
        yield _longest(data, template, words, config)
    yield (
        f"words of the prompts below: {shown(' '.join(words))}, the first {len(words)} of"
        f" prompt.vocabulary = {shown(config.prompt.vocabulary)}; tuning chooses among"
        f" {len(vocabulary)}"
    )
    for row in _examples(data):
        yield ""
        yield f"--- {row.place}"
        yield template.demonstrate(row, words)


def _tables(tables: Tables, task: TaskSection, columns: Sequence[str]) -> Iterator[str]:
    uses = dict.fromkeys(columns, "shown") | {task.label_column: "the label"}
    for what, table in (("train", tables.train), ("judge", tables.dev)):
        if table is not None:
            yield f"{what}: {table.name}: {table.format}; {len(table.records):,} rows"
            yield f"columns: {', '.join(_column(table, name, uses) for name in table.columns)}"
    for note in tables.notes:
        yield f"note: {note}"
    if tables.unused:
        yield f"not used: {', '.join(tables.unused)}"


def _column(table: Table, name: str, uses: dict[str, str]) -> str:
    use = uses.get(name, "" if guess.is_shown(name) else "a template cannot show this name")
    return f"{name or '(no name)'}{f' ({use})' if use else ''}"


def _classes(data: Dataset, config: Config) -> Iterator[str]:
    train, dev = (Counter(row.label for row in rows) for rows in (data.train, data.dev))
    width = max(len(repr(label)) for label in data.labels)
    yield f"{'label':<{width}}  {'train':>9}  {'judge':>9}"
    for number, label in enumerate(data.labels[:MOST_VALUES]):
        yield f"{label!r:<{width}}  {train[number]:>9,}  {dev[number]:>9,}"
    if len(data.labels) > MOST_VALUES:
        yield f"and {len(data.labels) - MOST_VALUES} more"
    task = config.task
    taken, workers = task.train_per_class + config.prompt.pool, _enough(*_fewest(data), config)
    left = len(data.dev) - workers * task.validation_per_class * len(data.labels)
    many = "worker, which" if workers == 1 else "workers, each of which"
    yield (
        f"enough for {workers} {many} takes {taken} rows of each class to train on"
        f" (task.train_per_class + prompt.pool) and {task.validation_per_class} to validate on"
        f" (task.validation_per_class); {left:,} are then left to test on"
    )


def _repeats(data: Dataset) -> Iterator[str]:
    """Texts that occur more than once are a leak, or a contradiction."""
    labels_of: dict[tuple[str, ...], set[int]] = {}
    for row in [*data.train, *data.dev]:
        labels_of.setdefault(tuple(row.texts.values()), set()).add(row.label)
    train = {tuple(row.texts.values()) for row in data.train}
    both = [row for row in data.dev if tuple(row.texts.values()) in train]
    if both:
        yield (
            f"warning: {len(both):,} of the rows to judge by have texts that are also trained on,"
            f" which makes prompts look too good; the first is {both[0].place}"
        )
    contradictory = sum(len(found) > 1 for found in labels_of.values())
    if contradictory:
        yield f"warning: {contradictory:,} texts occur with different labels"


def _longest(data: Dataset, template: Template, words: list[str], config: Config) -> str:
    count, counted_by = token_counter(config)
    rows = [*data.train, *data.dev]
    texts = [template.demonstrate(row, words) for row in rows]
    longest = sorted(range(len(rows)), key=lambda each: -len(texts[each]))[:LONGEST]
    tokens = count([texts[each] for each in longest])
    most = max(tokens)
    place = rows[longest[tokens.index(most)]].place
    return f"longest row: {most:,} tokens with its label, by {counted_by}: {place}"


def _examples(data: Dataset) -> list[Row]:
    """The first training row of each of the first classes, and further ones if these are few."""
    first = {row.label: row for row in reversed(data.train)}
    chosen = [first[label] for label in sorted(first)][:PROMPTS]
    further = [row for row in data.train if not any(row is each for each in chosen)]
    return [*chosen, *further[: PROMPTS - len(chosen)]]
