"""Answers on disk: never a wrong one, never paid for twice, whatever happens to the process."""

import os
import signal
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.llm.base import Prompt, Scores
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.llm.store import AnswerStore, Question, StoreError

LABELS = (" no", " yes")
RECORD = 16 + 8 * 2 + 4
HEADER = 72
SECRET = "the patient's name is Anna"


def store(folder: Path, worker: int | None = 1, **other: str) -> AnswerStore:
    return AnswerStore(folder, {"model": "m", "template": "t", **other}, LABELS, worker)


def question(number: int) -> Question:
    return f"prompt {number}", LABELS


def answers(*numbers: int) -> dict[Question, np.ndarray]:
    return {question(n): np.array([-n - 0.5, -1 / (n + 3)]) for n in numbers}


def known(kept: AnswerStore, *numbers: int) -> set[int]:
    """Which of the ``numbers`` are known; all of them must have the right answer."""
    found = kept.get(map(question, numbers))
    for asked, answer in found.items():
        np.testing.assert_array_equal(answer, answers(int(asked[0].split()[1]))[asked])
    return {n for n in numbers if question(n) in found}


def file_of(folder: Path, worker: int = 1) -> Path:
    (path,) = folder.rglob(f"worker-{worker}.answers")
    return path


class Counting:
    """Answers with the length of the prompt, and counts what it was asked."""

    description = "counting"
    digest = ""
    at_once = None

    def __init__(self) -> None:
        self.calls = 0

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        self.calls += len(prompts)
        lengths = [len(prompt.context + prompt.query) for prompt in prompts]
        rows = np.array([[-n, -n / 2] for n in lengths], dtype=np.float64)
        return Scores(rows, calls=len(prompts), prompt_tokens=sum(lengths))


def test_answers_are_found_again_by_the_next_process(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.put(answers(*range(3000)))
    assert known(first, 0, 2999, 3000) == {0, 2999}
    assert known(store(tmp_path), *range(3001)) == set(range(3000))
    assert file_of(tmp_path).stat().st_size == HEADER + 3000 * RECORD


def test_what_was_got_is_the_askers_own(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.put(answers(1))
    kept.get([question(1)])[question(1)][:] = 0
    assert known(kept, 1) == {1}


def test_the_first_answer_counts(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.put(answers(1))
    kept.put({question(1): np.array([0.0, 0.0])})
    assert known(kept, 1) == {1}
    assert known(store(tmp_path), 1) == {1}


def test_workers_read_each_others_answers_as_they_come(tmp_path: Path) -> None:
    first, second, reader = store(tmp_path, 1), store(tmp_path, 2), store(tmp_path, None)
    first.put(answers(1))
    assert known(second, 1, 2) == {1}
    second.put(answers(2))
    assert known(first, 1, 2) == {1, 2}
    third = store(tmp_path, 3)
    third.put(answers(3))
    assert known(reader, 1, 2, 3, 4) == {1, 2, 3}


@pytest.mark.parametrize(
    "other", [{"model": "n"}, {"template": "u"}, {"base_url": "x"}, {"model": "m\n"}]
)
def test_another_identity_never_shares(tmp_path: Path, other: dict[str, str]) -> None:
    store(tmp_path).put(answers(1))
    kept = store(tmp_path, **other)
    assert known(kept, 1) == set()
    others_labels = AnswerStore(tmp_path, {"model": "m", "template": "t"}, LABELS[::-1], 1)
    assert not others_labels.get([("prompt 1", LABELS[::-1])])
    with pytest.raises(ValueError, match="for the labels"):
        others_labels.get([question(1)])


def test_a_file_of_another_header_is_refused_if_ones_own_and_else_passed_over(
    tmp_path: Path,
) -> None:
    store(tmp_path, 1).put(answers(1))
    content = bytearray(file_of(tmp_path).read_bytes())
    content[8] += 1  # the version
    file_of(tmp_path).write_bytes(content)
    assert known(store(tmp_path, 2), 1) == set()
    with pytest.raises(StoreError, match=r"worker-1\.answers: holds no answers of this model"):
        store(tmp_path, 1)
    assert file_of(tmp_path).read_bytes() == content


def test_no_text_is_written(tmp_path: Path) -> None:
    kept = AnswerStore(tmp_path, {"template": SECRET}, (SECRET, "label"), 1)
    kept.put({(SECRET, (SECRET, "label")): np.zeros(2)})
    for path in tmp_path.rglob("*"):
        assert "Anna" not in str(path)
        assert path.is_dir() or b"Anna" not in path.read_bytes()


def test_answers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.put({question(1): np.array([0.0, -np.inf])} | answers(2))
    assert known(kept, 1, 2) == {2}
    assert known(store(tmp_path), 1, 2) == {2}


@pytest.mark.parametrize("length", range(HEADER + 1))
def test_a_torn_header_is_begun_anew(tmp_path: Path, length: int) -> None:
    store(tmp_path)
    os.truncate(file_of(tmp_path), length)
    store(tmp_path).put(answers(1))
    assert known(store(tmp_path), 1) == {1}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 20), max_size=4)),
        st.tuples(st.just("tear"), st.integers(0, RECORD)),
        st.tuples(st.just("noise"), st.binary(max_size=2 * RECORD)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(actions)
def test_no_kill_ever_makes_a_wrong_answer(tmp_path_factory, actions) -> None:
    """A kill cuts the last record at any byte; a crash may leave anything behind the good ones."""
    folder = tmp_path_factory.mktemp("store")
    kept, bystander = store(folder), store(folder, 2)
    on_disk: list[int] = []
    for action, value in actions:
        path = file_of(folder)
        if action == "put":
            new = [n for n in dict.fromkeys(value) if not known(kept, n)]
            kept.put(answers(*new))
            on_disk += new
        elif action == "reopen":
            kept = store(folder)
            assert path.stat().st_size == HEADER + len(on_disk) * RECORD
        else:
            if action == "tear" and on_disk and value:
                os.truncate(path, path.stat().st_size - value)
                on_disk.pop()
            elif action == "noise":
                with path.open("ab") as file:
                    file.write(value)
            kept = store(folder)  # it was a kill
        assert known(kept, *range(21)) >= set(on_disk)
        assert known(store(folder, None), *range(21)) == set(on_disk)
        assert known(bystander, *range(21)) >= set(on_disk)


def test_damage_in_the_middle_costs_no_more_than_its_record(tmp_path: Path) -> None:
    store(tmp_path).put(answers(*range(10)))
    content = bytearray(file_of(tmp_path).read_bytes())
    content[HEADER + 4 * RECORD + 20] ^= 1
    file_of(tmp_path).write_bytes(content)
    assert known(store(tmp_path), *range(10)) == set(range(10)) - {4}
    assert file_of(tmp_path).read_bytes() == content


def test_two_processes_of_one_number_do_each_other_no_harm(tmp_path: Path) -> None:
    dying, new = store(tmp_path), store(tmp_path)
    for n in range(0, 20, 2):
        dying.put(answers(n))
        new.put(answers(n + 1))
    with file_of(tmp_path).open("ab") as file:
        file.write(b"torn")  # the last that is heard of it
    new.put(answers(20))
    assert known(new, *range(21)) == set(range(21))
    assert known(store(tmp_path), *range(21)) == set(range(21))


def test_two_headers_at_once_are_harmless(tmp_path: Path) -> None:
    store(tmp_path)
    header = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(2 * header)
    store(tmp_path, None)
    kept = store(tmp_path)
    kept.put(answers(1))
    assert known(store(tmp_path), 1) == {1}


WRITER = textwrap.dedent(
    """
    import resource, sys, warnings
    from pathlib import Path
    import numpy as np
    from asyndbt_mpi.llm.store import AnswerStore
    labels = (" no", " yes")
    kept = AnswerStore(Path(sys.argv[1]), {"model": "m", "template": "t"}, labels, 1)
    if len(sys.argv) > 2:
        size = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for start in range(0, 200 if len(sys.argv) > 2 else 10**7, 7):
        numbers = range(start, start + 7)
        kept.put({(f"prompt {n}", labels): np.array([-n - 0.5, -1 / (n + 3)]) for n in numbers})
        print(start + 7, flush=True)
    print(len(kept.get((f"prompt {n}", labels) for n in range(200))))
    """
)


@pytest.mark.parametrize("room", [0, 1, 250, RECORD])
def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path: Path, room: int) -> None:
    size = HEADER + 2 * 7 * RECORD + room
    result = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path), str(size)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("File too large; the run continues") == 1
    assert result.stdout.split()[-1] == "200", "what is paid for stays in memory"
    whole = 14 + room // RECORD
    assert file_of(tmp_path).stat().st_size == HEADER + whole * RECORD
    assert known(store(tmp_path), *range(200)) == set(range(whole))


def test_a_folder_that_vanishes_ends_nothing(tmp_path: Path) -> None:
    kept = store(tmp_path)
    file_of(tmp_path).unlink()
    with pytest.warns(UserWarning, match="not kept on disk"):
        kept.put(answers(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.put(answers(2))
    assert known(kept, 1, 2, 3) == {1, 2}


def test_what_was_put_before_kill_9_is_there(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(300):
            last = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")[:-1]
        process.wait()
        put = int((rest or [last])[-1])
        assert known(store(tmp_path), *range(put)) == set(range(put))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        store(tmp_path / "file")
    assert known(store(tmp_path / "absent", None), 1) == set()
    assert not (tmp_path / "absent").exists()


def test_a_model_is_not_paid_again_after_a_restart_however_small_its_cache(tmp_path: Path) -> None:
    texts = [Prompt("context ", f"{n} {SECRET}") for n in range(50)]
    first = Counting()
    cached = CachedModel(first, 1, store(tmp_path))
    paid = [cached.label_log_probabilities(texts[n : n + 5], LABELS) for n in range(0, 50, 5)]
    assert sum(scores.calls for scores in paid) == first.calls == 50
    again = cached.label_log_probabilities(texts, LABELS)
    assert (again.calls, again.prompt_tokens, first.calls) == (0, 0, 50)
    restarted = Counting()
    cached = CachedModel(restarted, 1, store(tmp_path))
    answered = cached.label_log_probabilities([*texts, Prompt("", "new")], LABELS)
    assert (answered.calls, restarted.calls) == (1, 1)
    np.testing.assert_array_equal(answered.log_probabilities[:-1], again.log_probabilities)
    neighbour = CachedModel(restarted, 1, store(tmp_path, 2))
    assert neighbour.label_log_probabilities(texts, LABELS).calls == 0


# ------------------------------------------------------------------------- what is not one's own


def hurt(path: Path, how: str) -> None:
    """Make a file or folder one that must not be believed."""
    if how == "foreign":
        os.chown(path, 65534, 65534)
    elif how == "link":
        moved = path.with_name("moved")
        path.rename(moved)
        path.symlink_to(moved)
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        path.chmod(path.stat().st_mode | (0o020 if how == "group" else 0o002))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files away")
FOREIGN = pytest.param("foreign", marks=needs_root)
TOLD = {
    "foreign": "belongs to another user",
    "link": "is a symbolic link",
    "group": "is writable by others",
    "others": "is writable by others",
    "pipe": "is not a regular file",
    "long": "has more than 2147483648 bytes",
}


@pytest.mark.parametrize("worker", [1, None])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("how", [FOREIGN, "link", "group", "others"])
def test_a_folder_that_is_not_ones_own_is_refused(
    tmp_path: Path, how: str, level: int, worker: int | None
) -> None:
    folder = tmp_path / "answers"
    store(folder).put(answers(1))
    hurt((folder, file_of(folder).parent)[level], how)
    with pytest.raises(StoreError, match=rf"answers.*: {TOLD[how]}"):
        store(folder, worker)


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def made_by_another_where_all_can(path: Path) -> None:
    path.parent.chmod(0o1777)
    hurt(path, "foreign")


def linked_by_another_where_all_can(path: Path) -> None:
    path.parent.chmod(0o1777)
    hurt(path, "link")
    os.lchown(path, 65534, 65534)


@pytest.mark.parametrize("beyond", ["x/answers", "x/../answers", "x/a/b/../../../answers"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (open_to_all, "which everybody can write"),
        pytest.param(made_by_another_where_all_can, "another user has put", marks=needs_root),
        pytest.param(linked_by_another_where_all_can, "another user has put", marks=needs_root),
    ],
)
def test_folders_above_count_too(
    tmp_path: Path, change: Callable[[Path], None], told: str, beyond: str
) -> None:
    """Who can put another folder in the place of one above decides what is read."""
    (tmp_path / "x/a/b").mkdir(parents=True)
    change(tmp_path / "x")
    for worker in (1, None):
        with pytest.raises(StoreError, match=told):
            store(tmp_path / beyond, worker)
    assert not list(tmp_path.rglob("answers"))


def test_homes_may_be_links_and_temporary_folders_sticky(tmp_path: Path) -> None:
    (tmp_path / "disks/one").mkdir(parents=True)
    (tmp_path / "home").symlink_to("disks/one")
    (tmp_path / "disks/one/tmp").mkdir()
    (tmp_path / "disks/one/tmp").chmod(0o1777)
    (tmp_path / "disks/one/team").mkdir()
    (tmp_path / "disks/one/team").chmod(0o775)
    names = ["home/answers", "home/tmp/answers", "home/../home/team/answers"]
    if os.geteuid() == 0:
        (tmp_path / "disks/one/project").mkdir()
        hurt(tmp_path / "disks/one/project", "foreign")  # of whoever leads it
        names.append("home/project/answers")
    for name in names:
        folder = tmp_path / name
        store(folder).put(answers(1))
        assert known(store(folder, 2), 1) == {1}
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StoreError):
        store(tmp_path / "loop/answers")


@pytest.mark.parametrize("how", [FOREIGN, "link", "group", "others", "pipe", "long"])
def test_a_file_that_is_not_ones_own_is_passed_over_or_refused(tmp_path: Path, how: str) -> None:
    store(tmp_path, 1).put(answers(1))
    store(tmp_path, 2).put(answers(2))
    if how == "long":
        os.truncate(file_of(tmp_path), (1 << 31) + 1)
    else:
        hurt(file_of(tmp_path), how)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert known(store(tmp_path, 3), 1, 2) == {2}
    messages = [str(one.message) for one in told if one.category is UserWarning]
    assert len(messages) == (how != "pipe")  # which has nothing to read
    assert all(f"worker-1.answers {TOLD[how]}" in message for message in messages)
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(StoreError, match=rf"worker-1\.answers: {TOLD[how]}"),
    ):
        store(tmp_path, 1)


def test_a_folder_that_is_taken_over_later_is_read_no_more(tmp_path: Path) -> None:
    kept, other = store(tmp_path, 1), store(tmp_path, 2)
    kept.put(answers(1))
    assert known(other, 1) == {1}
    tmp_path.chmod(0o777)
    with pytest.warns(UserWarning, match="is writable by others"):
        kept.put(answers(2))
    with pytest.warns(UserWarning, match="is writable by others"):
        assert known(other, 1, 2) == {1}


def test_what_is_made_is_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store(tmp_path / "new").put(answers(1))
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
def test_numbers_that_no_model_gives_are_passed_over(tmp_path: Path, value: float) -> None:
    kept = store(tmp_path)
    kept.put(answers(1))
    record = kept._digest(question(2)) + np.array([-0.5, value]).tobytes()
    with file_of(tmp_path).open("ab") as file:
        file.write(record + zlib.crc32(record).to_bytes(4, "little"))
    assert known(store(tmp_path), 1) == {1}
    assert not store(tmp_path).get([question(2)])
