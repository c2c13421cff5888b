import pytest

from nemo_cascade.nano.tasks import prepare_nano


@pytest.fixture(scope="session")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "nano"
    prepare_nano(folder, seed=0)
    return folder
