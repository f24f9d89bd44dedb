"""The folder of converted models: named by content, converted once, and tidied up."""

import os
import shutil
from pathlib import Path

import pytest

from asyndbt_mpi.llm import converted
from asyndbt_mpi.llm.converted import convert_once, entries, entry_of
from tests.helpers import ROOT, asyndbt


def convert(file: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(file.read_bytes() * 100_000)


def fail(file: Path, folder: Path) -> None:
    raise AssertionError("converted again")


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASYNDBT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "some.Q4_1.gguf"
    file.write_bytes(b"weights")
    return file


def folders() -> list[str]:
    return [entry.folder.name for entry in entries()]


def test_the_same_content_is_converted_once(gguf: Path) -> None:
    folder = convert_once(gguf, convert)
    os.utime(gguf, (1, 1))
    assert convert_once(gguf, fail) == folder
    elsewhere = gguf.parent / "elsewhere"
    elsewhere.mkdir()
    copied = Path(shutil.copy(gguf, elsewhere))
    assert convert_once(copied, fail) == folder
    linked = elsewhere / "linked.gguf"
    linked.symlink_to(gguf)
    assert convert_once(linked, fail) == folder


def test_a_file_that_stays_as_it_is_is_read_once(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bool] = []
    digest = converted.hashlib.file_digest  # type: ignore[attr-defined]
    monkeypatch.setattr(
        converted.hashlib,  # type: ignore[attr-defined]
        "file_digest",
        lambda *each: read.append(True) or digest(*each),
    )
    names = {entry_of(gguf) for _ in range(3)}
    assert (len(names), len(read)) == (1, 1)
    gguf.write_bytes(b"Weights")
    assert entry_of(gguf) not in names


def test_other_content_replaces_what_the_file_had_before(gguf: Path) -> None:
    first = convert_once(gguf, convert)
    other = gguf.with_name("other.gguf")
    other.write_bytes(b"other")
    kept = convert_once(other, convert)
    gguf.write_bytes(b"new weights")
    second = convert_once(gguf, convert)
    assert {*folders()} == {second.name, kept.name}
    assert not first.exists()
    assert (second / "weights").read_bytes().startswith(b"new weights")


def test_nothing_can_be_written(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = gguf.parent / "cache"
    cache.write_text("a file")
    assert entry_of(gguf).name.startswith("some.Q4_1-")


def test_the_command(gguf: Path) -> None:
    other = gguf.with_name("other.gguf")
    other.write_bytes(b"12345")
    for file in (gguf, other):
        convert_once(file, convert)
    cache = gguf.parent / "cache" / "models"
    (cache / "of-an-earlier-version").mkdir()
    (cache / "killed.partial").mkdir()
    (cache / "killed.partial" / "half").write_bytes(b"half")
    other.unlink()
    shown = asyndbt("cache", folder=ROOT).stdout.splitlines()
    assert shown[0] == f"{cache}: 1.2 MB of converted models"
    assert any(f"({'by an earlier version'})" in line for line in shown)
    assert any(f"(from {other}, old: that file is gone or changed)" in line for line in shown)
    assert any(line.endswith(f"(from {gguf})") and " 0.7 MB  some.Q4_1-" in line for line in shown)
    cleared = asyndbt("cache", "--clear", "old", folder=ROOT).stdout.splitlines()
    assert cleared[-1] == "0.5 MB are free now"
    assert folders() == [entry_of(gguf).name]
    assert not list(cache.glob("*.partial"))
    assert convert_once(gguf, fail)
    asyndbt("cache", "--clear", "all", folder=ROOT)
    assert folders() == []
    assert asyndbt("cache", folder=ROOT).stdout == f"{cache}: 0.0 MB of converted models\n"
    assert asyndbt("cache", "--clear", "all", folder=ROOT).returncode == 0


def test_a_conversion_that_goes_on_is_left_alone(gguf: Path) -> None:
    left: list[bool] = []

    def tidy_meanwhile(file: Path, folder: Path) -> None:
        convert(file, folder)
        converted.remove_leftovers()
        left.append(folder.exists())

    convert_once(gguf, tidy_meanwhile)
    assert left == [True]
