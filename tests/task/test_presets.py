from pathlib import Path

import pytest

from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.task import dataset
from asyndbt_mpi.task.partition import split
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.task.vocabulary import load_vocabulary

GLUE = Path(__file__).parents[3] / "shared" / "data" / "glue"
FOLDERS = {"sst2": "SST-2", "cola": "CoLA", "mrpc": "MRPC", "qqp": "QQP", "qnli": "QNLI"}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_preset_is_whole_but_for_its_data(name: str) -> None:
    config = load(name)
    assert config.run.name == config.task.name == name
    template = Template(config.task.template, config.task.label_texts)
    assert ("sentence2" in template.columns) == (name not in ("sst2", "cola"))
    assert len(load_vocabulary(config.prompt.vocabulary, config.prompt.vocabulary_size)) == 100
    with pytest.raises(ConfigurationError, match=f"task.path: preset data '{name}' is not"):
        dataset.load(config.task, template.columns, 0)


@pytest.mark.skipif(not GLUE.is_dir(), reason=f"no GLUE samples at {GLUE}")
@pytest.mark.parametrize("name", FOLDERS)
def test_glue_samples_split_over_three_workers(name: str) -> None:
    config = load(name, [f"task.path={GLUE / FOLDERS[name]}"])
    template = Template(config.task.template, config.task.label_texts)
    data = dataset.load(config.task, template.columns, config.run.seed)
    parts = split(data, config.task, config.prompt.pool, 3, config.run.seed)
    for part in parts:
        assert len(part.train) == len(part.validation) == 20
        assert [len(rows) for rows in part.pool] == [50, 50]
        assert len(part.test) == 200
    query = template.render(parts[0].test[0], ["judge"])
    assert query.startswith("Note: judge\n")
    assert parts[0].test[0].texts["sentence1"] in query


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_reviews_split_over_three_workers_as_in_the_paper(partition: str) -> None:
    config = load("sst2", ["task.name=reviews", f"task.partition={partition}"])
    data = dataset.load(config.task, ["sentence1"], config.run.seed)
    parts = split(data, config.task, config.prompt.pool, 3, config.run.seed)
    assert len(parts[0].test) == 200
