"""Where a run's answers are kept, and what makes them another run's."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.assemble import Place, _digest, language_model, prepare
from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.jobs.answer_cache import Answers, folder_of, make_folder, open_store
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.llm.base import Prompt
from tests.helpers import asyndbt, complaints
from tests.llm.api_server import Manners, serving
from tests.task.fake import DATA

LOG = Path("runs/demo.h5")


def configuration(*settings: str) -> Config:
    return load("reviews", settings)


def test_the_folder_is_beside_the_log_unless_named() -> None:
    assert folder_of(configuration(), LOG) == Path("runs/demo.h5.cache")
    assert folder_of(configuration("llm.cache_folder=kept/x"), LOG) == Path("kept/x")
    for off in ("llm.cache_folder=", "llm.cache=0"):
        assert folder_of(configuration(off), LOG) is None
        assert open_store(configuration(off), Answers(LOG, 1), "", "") is None
    assert folder_of(load("synthetic"), LOG) is None


def test_what_answers_depend_on_tells_them_apart(tmp_path: Path) -> None:
    base = (f"llm.cache_folder={tmp_path}/kept",)
    labels = (" negative", " positive")

    def has_answer(*settings: str, digest: str = "d1") -> bool:
        store = open_store(configuration(*base, *settings), Answers(LOG, 2), "", digest)
        assert store is not None
        return bool(len(store))

    store = open_store(configuration(*base), Answers(LOG, 1), "", "d1")
    assert store is not None
    store.put({("prompt", labels): np.array([-1.0, -2.0])})
    assert has_answer()
    assert has_answer("llm.threads=2", "llm.device=cpu", "run.seed=5", "prompt.pool=4")
    assert has_answer("llm.model=the/same/elsewhere")
    for setting in (
        "llm.precision=bfloat16",
        "llm.backend=openai",
        'task.labels=[" bad", " good"]',
        "task.template=[[{fragment} ]]{sentence1}",
    ):
        assert not has_answer(setting), setting
    assert not has_answer(digest="d2")


def test_servers_are_told_apart_and_precision_is_none_of_theirs(tmp_path: Path) -> None:
    openai = f"llm.cache_folder={tmp_path}", "llm.backend=openai", "llm.base_url=http://a"
    folders = {
        open_store(configuration(*openai, setting), Answers(LOG, 1), "", "").folder  # type: ignore[union-attr]
        for setting in (
            "llm.base_url=http://a",
            "llm.precision=float16",
            "llm.base_url=http://b",
            "llm.api=completion",
            "llm.scores=answers",
            "llm.model=other",
        )
    }
    assert len(folders) == 4
    config = configuration(*openai)
    for scored_by in ("top 20 log-probabilities", "top 5 log-probabilities", "answers"):
        store = open_store(config, Answers(LOG, 1), scored_by, "")
        assert store is not None
        assert store.folder not in folders
        folders.add(store.folder)


@pytest.mark.parametrize("granted", [20, 5, 0])
def test_what_the_first_request_finds_out_tells_answers_apart(tmp_path: Path, granted: int) -> None:
    labels = 'task.labels=[" good", " bad"]'
    with serving(Manners(most=20)) as server:
        config = configuration(
            f"llm.cache_folder={tmp_path}", "llm.backend=openai", f"llm.base_url={server.url}",
            "llm.api=completion", "llm.model=toy", labels,
        )  # fmt: skip

        def calls() -> int:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = language_model(config, Place(0, 1), Answers(LOG, 1))
                assert model is not None
                return model.label_log_probabilities([Prompt("a", "b")], [" good", " bad"]).calls

        assert calls() > 0
        assert calls() == 0
        server.manners.most = granted
        assert (calls() == 0) == (granted == 20)


def test_the_model_behind_a_server_and_what_it_is_told_tell_answers_apart(tmp_path: Path) -> None:
    model = {"id": "toy", "meta": {"n_params": 5}}
    with serving(Manners(most=40, models=[model])) as server:

        def calls(*settings: str) -> int:
            config = configuration(
                f"llm.cache_folder={tmp_path}", "llm.backend=openai", f"llm.base_url={server.url}",
                "llm.api=completion", "llm.model=toy", 'task.labels=[" good", " bad"]', *settings,
            )  # fmt: skip
            model = language_model(config, Place(0, 1), Answers(LOG, 1))
            assert model is not None
            return model.label_log_probabilities([Prompt("a", "b")], [" good", " bad"]).calls

        assert calls() > 0
        assert calls() == 0
        server.manners.models = [model | {"created": 7}]  # started again
        assert calls() == 0
        assert calls("llm.extra_body={ seed = 1 }") > 0
        server.manners.models = [model | {"meta": {"n_params": 6}}]
        assert calls() > 0
        server.manners.name = "toy-2"
        assert calls() > 0
        assert calls() == 0


def test_the_digest_is_of_texts_labels_and_template() -> None:
    digests = {
        prepare(configuration(*settings), 3).data_digest
        for settings in (
            (), ("llm.model=other",), ("run.seed=1",), ("task.test=119",),
            ("task.template=[[{fragment} ]]{sentence1}",),
        )
    }  # fmt: skip
    assert len(digests) == 4
    assert {len(digest) for digest in digests} == {32}
    assert prepare(load("synthetic"), 3).data_digest == ""
    # Test scores may depend on how many rows nobody was dealt.
    own = TaskSection(), ["sentence1"]
    fewer, more = ({1: replace(DATA, class_counts=counts)} for counts in ([5, 2], [6, 2]))
    assert _digest(*own, fewer, {}) != _digest(*own, more, {})


def test_a_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    store = open_store(configuration(), Answers(tmp_path / "run.h5", None), "", "")
    assert store is not None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    setting = f"llm.cache_folder={tmp_path}/file/kept"
    result = asyndbt("simulate", "reviews", "--set", setting, folder=tmp_path)
    assert result.returncode == 2
    assert complaints(result) == [
        f"asyndbt: llm.cache_folder: {tmp_path}/file/kept cannot be written to: Not a directory;"
        ' choose another, or "" to keep no answers on disk'
    ]
    assert not list(tmp_path.rglob("*.h5"))
    with pytest.raises(ConfigurationError, match="cannot be written"):
        make_folder(configuration("llm.cache_folder=/proc/here"), LOG)


def test_a_log_that_is_there_keeps_its_answers_when_it_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    simulate_silently(
        Job.of(Request("synthetic", ("run.iterations=1",), str(path), False, False), 3), 1
    )
    with pytest.raises(ConfigurationError, match="already exists"):
        Job.of(Request("reviews", (), str(path), False, False), 3)
    assert not (tmp_path / "run.h5.cache").exists()
    store = open_store(configuration(), Answers(path, 1), "", "")
    assert store is not None
    labels = (" negative", " positive")
    store.put({("prompt", labels): np.array([-1.0, -2.0])})
    job = Job.of(Request("reviews", (), str(path), True, False), 3)
    again = open_store(job.config, Answers(job.path, 1), "", "")
    assert again is not None
    assert len(again) == 1
