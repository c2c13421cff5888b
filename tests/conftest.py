"""Fixtures that several packages' tests share; marks `tests/` as importable."""

import gc

import pytest

# Files are handed to whichever worker is free, so the longest go first: one that comes last keeps the others waiting.
LONGEST_FIRST = ("e2e", "slurm", "distributed", "cases", "proofs")


def pytest_collection_modifyitems(items):
    def place(item):
        folder = item.path.relative_to(item.session.config.rootpath / "tests").parts[0]
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what all test files import would be walked again and again: a tenth of the configs' tests


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Folder of prepared data with nano's in it, where runs beside it look for theirs (about 6 s, once per session)."""
    from nemo_cascade.nano.tasks import prepare_nano

    folder = tmp_path_factory.getbasetemp() / "data"
    prepare_nano(folder / "nano", 0)
    return folder


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory):
    """SmolLM2-135M-Instruct with its real weights as an HF folder (about 25 s, once per session)."""
    from nemo_cascade.config.model import ModelConfig
    from nemo_cascade.models.sources import materialize_model

    folder = tmp_path_factory.mktemp("models") / "smollm2"
    return materialize_model(ModelConfig(name="smollm2", source="smollm2"), folder, seed=0, tokenizer_dir=None)
