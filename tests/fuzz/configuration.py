"""Hostile configurations, data, word lists, templates, sizes and arguments of sbatch.

    python -m tests.fuzz.configuration [SEED [CASES]]

Each case is either taken as it is meant, or refused by one clean line. Files are written into a
temporary folder alone: no path of a case is ever written to.
"""

import csv
import io
import json
import random
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from asyndbt_mpi.commands.sbatch import SHIPPED, submission
from asyndbt_mpi.config import Config, ConfigurationError, load, parse, presets
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.jobs.job import log_path
from asyndbt_mpi.jobs.memory import check_memory
from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.task import dataset
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.task.vocabulary import load_vocabulary

LONGEST_ERROR = 3000
PRIVATE = "pr1vate"
"""In every text of the data; no error may quote it."""

TOML = """\
[run]
name = "fuzz"
iterations = 3
output = "runs/{name}.h5"
[algorithm]
penalty = 1.0
max_planes = 5
lower_distance = "l1"
[prompt]
vocabulary = ["a", "b"]
vocabulary_size = 2
[task]
labels = [" a", " b"]
[llm]
backend = "synthetic"
base_url = ""
extra_body = {seed = 1}
[log]
iterates = "all"
"""

NUMBERS = [
    *("0", "-1", "1", "true", "inf", "-inf", "nan", "1e308", "1e-320", "-0.0", "1e999", "0x7f"),
    *(str(2**31), str(2**63 - 1), str(2**63), "1" + "0" * 400, "1" + "0" * 5000, "1_0", "07"),
]
TEXTS = [
    *("", " ", "-", "-x", "a\nb", "a\rb", "a\0b", "a\x1b[31mb", "\u2028", "\u200b", "\ufeff"),
    *("x" * 300, "x" * 5000, "/" * 5000, "/dev/zero", "..", "{name}", "{", "#", "'", '"', "$(ls)"),
    *("`ls`", ";", "a b", "*", "%x", "é", "e\u0301", "\U0001f600", "http://h/", "http://h/\nX: y"),
    *("none", "gzip", "sk-secret-key", "\x85", "\x9b"),
]
STRUCTURES = [
    *("[]", "{}", "[[]]", "[1, 'a']", "{a = 1}", "[" * 20000, "[" * 20000 + "]" * 20000),
    *("1979-05-27", "07:32:00", "{a = {a = {a = 1}}}", "'''\n\n'''", "[nan]", "{x = inf}"),
]
BYTES = [b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"[", b'"', b"."]


@dataclass(frozen=True)
class Kind:
    """``make`` draws a case; ``take`` accepts it, having checked it, or raises."""

    make: Callable[[random.Random], Any]
    take: Callable[[Path, Any], None]
    place: str = ""
    """What every error names."""


def fuzz(seed: int, cases: int) -> Counter[str]:
    """How often each outcome came of ``cases``.

    Raises
    ------
    AssertionError
        With the case, on anything but success or one clean error.
    """
    outcomes: Counter[str] = Counter()
    generator = random.Random(seed)
    names = sorted(KINDS)
    with TemporaryDirectory() as folder:
        for number in range(cases):
            name = names[number % len(names)]
            case = KINDS[name].make(generator)
            try:
                outcome = _outcome(Path(folder), KINDS[name], case)
            except Exception as error:
                shown = repr(case)[:2000]
                raise AssertionError(f"seed {seed}, case {number}, {name}: {shown}") from error
            outcomes[f"{name} {outcome}"] += 1
    return outcomes


def _outcome(folder: Path, kind: Kind, case: Any) -> str:
    try:
        kind.take(folder, case)
    except ConfigurationError as error:
        _check_error(str(error), kind.place)
        return "refused"
    return "accepted"


def _check_error(text: str, place: str) -> None:
    assert text.isprintable(), "a control character in an error"
    assert 0 < len(text) <= LONGEST_ERROR, "an error that is empty, or a page long"
    assert PRIVATE not in text, "an error that quotes a text"
    assert place in text, "an error that does not say where"


# ---------------------------------------------------------------- configurations


def _damaged(generator: random.Random, content: bytes) -> bytes:
    """``content`` with up to three places changed."""
    for _ in range(generator.randrange(4)):
        place = generator.randrange(len(content) + 1)
        end = min(len(content), place + generator.choice([0, 0, 1, 1, 20]))
        content = content[:place] + generator.choice([b"", *BYTES]) + content[end:]
    return content


def _value(generator: random.Random) -> str:
    pick = generator.randrange(4)
    if pick == 3:
        return generator.choice(["3", "0.5", "'a'", "['a', 'b']", "{a = 1}", "true", "'none'"])
    if pick == 0:
        return generator.choice(NUMBERS)
    return json.dumps(generator.choice(TEXTS)) if pick == 1 else generator.choice(STRUCTURES)


def _key(generator: random.Random) -> tuple[str, str]:
    section = generator.choice([*Config.model_fields, "zzz"])
    known = Config.model_fields.get(section)
    keys = list(known.default.model_fields_set or type(known.default).model_fields) if known else []
    return section, generator.choice([*keys, "zzz"])


def _toml(generator: random.Random) -> bytes:
    lines = TOML.splitlines()
    for _ in range(generator.randrange(3)):
        place = generator.randrange(len(lines))
        section, key = _key(generator)
        change = generator.randrange(5)
        if change == 0:
            lines.insert(place, lines[generator.randrange(len(lines))])
        elif change == 1:
            lines[place] = f"{lines[place].partition('=')[0]} = {_value(generator)}"
        elif change == 2:
            lines.append(f"[{section}]\n{key} = {_value(generator)}")
        elif change == 3:
            lines.insert(0, f"{section}.{key} = {_value(generator)}")
        else:
            del lines[place]
            lines.append("")
    content = "\n".join(lines).encode()
    return content if generator.randrange(2) else _damaged(generator, content)


def _take_toml(folder: Path, content: bytes) -> None:
    file = folder / "c.toml"
    file.write_bytes(content)
    _check_config(load(str(file)))


def _assignments(generator: random.Random) -> list[str]:
    made = generator.choices(["run.seed=7", "steps.p=1", "run.name=a b", "run.iterations = 9"])
    for _ in range(generator.randrange(3)):
        section, key = _key(generator)
        value = generator.choice(
            [_value(generator), generator.choice(TEXTS), "1\nseed = 2", "\ud800"]
        )
        made.append(generator.choice([f"{section}.{key}={value}", value, f"{section}={value}"]))
    return made


def _take_assignments(folder: Path, assignments: list[str]) -> None:
    file = folder / "base.toml"
    if not file.exists():
        file.write_text(TOML)
    _check_config(load(str(file), assignments))


def _check_config(config: Config) -> None:
    """What is accepted can be written out, is the same when read again, and is safe in scripts."""
    assert Config.from_toml(config.to_toml()) == config
    for text in (config.run.name, config.run.output, config.task.path, config.llm.base_url):
        assert text.isprintable() or not any(ord(letter) < 32 for letter in text)
    assert log_path(config, None).name


def _paths(generator: random.Random) -> str:
    return "".join(generator.choice([*TEXTS, "a", "/", "runs/"]) for _ in range(3))


def _take_path(folder: Path, path: str) -> None:
    made = str(log_path(Config(), path))
    assert made.isprintable() or not any(ord(letter) < 32 for letter in made)
    assert not made.startswith("-")


def _sources(generator: random.Random) -> str:
    return generator.choice([_paths(generator), *presets()])


def _take_source(folder: Path, path: str) -> None:
    """Hardly any of them is there, and those that are, are folders and devices."""
    load(path)


def _sizes(generator: random.Random) -> tuple[list[int], str]:
    sizes = [generator.choice([1, 2, 50, 10**4, 10**7, 2**31 - 1]) for _ in range(7)]
    return [*sizes, generator.choice([1, 10**3, 10**9, 10**30])], generator.choice(
        ["loo", "additive"]
    )


def _take_sizes(folder: Path, case: tuple[list[int], str]) -> None:
    (m, n, u, v, samples, planes, held, workers), name = case
    config = parse(
        {
            "algorithm": {"max_planes": planes},
            "estimator": {"samples": max(samples, 2), "name": name},
            "llm": {"backend": "synthetic"},
        },
        "fuzz",
    )
    check_memory(config, Shapes(m, n, u, v, samples), workers, held)
    # Nobody has the memory for what these alone take.
    assert 8 * workers * m * n < 2**46


# ---------------------------------------------------------------- data


def _row(generator: random.Random) -> bytes:
    texts = [f"{PRIVATE} {text}" for text in TEXTS[:20]]
    good: dict[str, Any] = {"sentence1": generator.choice(texts), "label": generator.randrange(2)}
    change = generator.randrange(16)
    if change == 0:
        good["label"] = generator.choice(
            [-1, 2, True, 1.0, None, "1", [PRIVATE], 10**400, {}, 2**64]
        )
    elif change == 1:
        good["sentence1"] = generator.choice(
            [None, 1, [PRIVATE], {PRIVATE: 1}, "", " \n", "\ud800"]
        )
    elif change == 2:
        del good[generator.choice(list(good))]
    elif change == 3:
        good["more"] = generator.choice(texts)
    line = json.dumps(good).encode()
    if change == 4:
        line = line[:-1] + generator.choice(
            [
                b', "label": 1}',
                b', "x": NaN}',
                b', "x": ' + b"[" * 20000,
                b', "x": 1' + b"0" * 5000 + b"}",
            ]
        )
    return _damaged(generator, line) if change == 5 else line


def _rows(generator: random.Random) -> bytes:
    ending = generator.choice([b"\n", b"\n", b"\n", b"\r\n", b"\r"])
    lines = [_row(generator) for _ in range(generator.randrange(4))]
    return generator.choice([b"", b"", b"", b"\xef\xbb\xbf"]) + ending.join(lines)


def _take_rows(folder: Path, content: bytes) -> None:
    data = _loaded(folder, content, "jsonl")
    assert len(data.train) == sum(bool(line.strip()) for line in content.split(b"\n"))
    for row in data.train:
        assert row.label in (0, 1)
        assert row.texts["sentence1"].strip()
        row.texts["sentence1"].encode()


def _loaded(folder: Path, content: bytes, ending: str) -> dataset.Dataset:
    place = folder / ending
    place.mkdir(exist_ok=True)
    for name in ("train", "dev"):
        (place / f"{name}.{ending}").write_bytes(content)
    task = TaskSection(path=str(place), labels=[" a", " b"])
    return dataset.load(task, ["sentence1"], seed=0)


def _cells(generator: random.Random) -> bytes:
    separator = generator.choice([",", ";", "\t"])
    table = io.StringIO()
    writer = csv.writer(table, delimiter=separator)
    for _ in range(generator.randrange(4)):
        # So long that no part of it which an error may show could be taken for a label.
        text = f"{PRIVATE}{'x' * 40} {generator.choice(TEXTS[:20])}"
        writer.writerow([text, generator.choice([*"0101", "a", "b", "", "c"])])
    content = table.getvalue().encode(errors="surrogatepass")
    mark = generator.choice([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"])
    # The header stays whole, for its names may be quoted.
    return mark + f"sentence1{separator}label\n".encode() + _damaged(generator, content)


def _take_cells(folder: Path, content: bytes) -> None:
    data = _loaded(folder, content, "csv")
    for row in data.train:
        assert row.label in (0, 1)
        assert row.texts["sentence1"].strip()
        row.texts["sentence1"].encode()


def _words(generator: random.Random) -> bytes:
    words = [generator.choice(["a", "b", *TEXTS]) for _ in range(generator.randrange(5))]
    return _damaged(generator, "\n".join(words).encode())


def _take_words(folder: Path, content: bytes) -> None:
    file = folder / "words.txt"
    file.write_bytes(content)
    words = load_vocabulary(str(file), 2)
    assert len(set(words)) == 2
    assert all(word.isprintable() and word == " ".join(word.split()) for word in words)


def _template(generator: random.Random) -> tuple[str, list[str]]:
    parts = ["[[", "]]", "{fragment}", "{sentence1}", "{sentence2}", "{0}", "{sentence1.x}", "\n"]
    text = "".join(generator.choice([*parts, *TEXTS]) for _ in range(generator.randrange(8)))
    if generator.randrange(2):
        text = "[[{fragment}]]{sentence1}"
    labels = [
        " a",
        "a",
        "A",
        " b",
        "e\u0301",
        "é",
        "ａ",
        "a\u200b",
        "",
        " ",
        "{sentence1}",
        "\u200b",
    ]
    return text, [generator.choice(labels) for _ in range(generator.randrange(4))]


def _take_template(folder: Path, case: tuple[str, list[str]]) -> None:
    text, labels = case
    template = Template(text, labels)
    row = dataset.Row(dict.fromkeys(template.columns, "{fragment}"), 0)
    assert "{fragment}" in template.demonstrate(row, ["w"])
    assert len({label.strip() for label in labels}) == len(labels)


# ---------------------------------------------------------------- sbatch


class _Asked(NamedTuple):
    options: dict[str, str]
    further: tuple[str, ...]
    arguments: tuple[str, ...]


def _asked(generator: random.Random) -> _Asked:
    def text() -> str:
        return generator.choice([*TEXTS, "4", "gpu", "\ud800"])

    further = [generator.choice(["--mem=1G", "-N2", "--nodes=2", "--qos=" + text(), text()])]
    return _Asked(
        {"job-name": text(), "partition": text()}, tuple(further[: generator.randrange(2)]),
        (text(), "--set", text(), "--output", text()),
    )  # fmt: skip


def _take_asked(folder: Path, asked: _Asked) -> None:
    call = submission(SHIPPED, asked.options, asked.further, "srun", 2, asked.arguments)
    words = list(call.command)
    script = words.index(str(SHIPPED / "run.sbatch"))
    assert all(word.startswith("-") for word in words[1:script])
    assert tuple(words[script + 1 :]) == asked.arguments
    assert {f"--{name}={value}" for name, value in asked.options.items()} <= set(words[:script])
    line = shlex.split(str(call))
    assert line[-len(words) :] == words
    assert "\n" not in str(call)


KINDS = {
    "toml": Kind(_toml, _take_toml),
    "set": Kind(_assignments, _take_assignments),
    "path": Kind(_paths, _take_path),
    "source": Kind(_sources, _take_source),
    "sizes": Kind(_sizes, _take_sizes),
    "jsonl": Kind(_rows, _take_rows, "train.jsonl"),
    "csv": Kind(_cells, _take_cells, "train.csv"),
    "words": Kind(_words, _take_words),
    "template": Kind(_template, _take_template),
    "sbatch": Kind(_asked, _take_asked),
}


def _main(seed: int = 0, cases: int = 100_000) -> Iterator[str]:
    for name, count in sorted(fuzz(seed, cases).items()):
        yield f"{name:20} {count}"


if __name__ == "__main__":
    print("\n".join(_main(*map(int, sys.argv[1:]))))
