import pytest


@pytest.fixture
def nano(data_dir):
    return data_dir / "nano"
