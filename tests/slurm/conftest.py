from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing


def pytest_sessionstart() -> None:
    """Say it once, before tests are dealt out to processes."""
    if missing():
        pytest.exit(
            f"no {', '.join(missing())} here, nothing was tested; on Debian: "
            "apt-get install --no-install-recommends slurm-wlm munge libpmix-dev",
            returncode=2,
        )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"), nodes=4, cores=4, gpus=2)
    try:
        made.up()
        yield made
    finally:
        made.down()
