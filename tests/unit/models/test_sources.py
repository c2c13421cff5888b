"""Making the first model: deterministic, idempotent, refused where it doesn't fit."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from nemo_cascade.config.model import ModelConfig
from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.sources import materialize_model
from tests.unit.models.test_hf_folder import CONFIG

ARCHITECTURE = {key: value for key, value in CONFIG.items() if key != "vocab_size"}
MODEL = ModelConfig(name="nano", source="random", architecture=ARCHITECTURE)


@pytest.fixture
def tokenizer_dir(tmp_path):
    words = {word: i for i, word in enumerate(["<end>", "a", "b", "c", "d"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    return folder


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_random_model_is_a_function_of_seed_and_architecture(tmp_path, tokenizer_dir):
    first = materialize_model(MODEL, tmp_path / "first", 1, tokenizer_dir)
    again = materialize_model(MODEL, tmp_path / "again", 1, tokenizer_dir)
    other = materialize_model(MODEL, tmp_path / "other", 2, tokenizer_dir)
    assert weights(first) == weights(again) != weights(other)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(first), AutoTokenizer.from_pretrained(first)
    assert model.config.vocab_size == len(tokenizer) == 5
    assert model.config.eos_token_id == tokenizer.eos_token_id == 0
    assert "lm_head.weight" not in load_file(first / "model.safetensors")


def test_an_existing_folder_is_kept_and_another_models_is_refused(tmp_path, tokenizer_dir):
    folder = materialize_model(MODEL, tmp_path / "model", 1, tokenizer_dir)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert materialize_model(MODEL, folder, 1, tokenizer_dir) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    with pytest.raises(ModelError, match="another source"):
        materialize_model(MODEL, folder, 2, tokenizer_dir)


def test_what_can_not_be_made_leaves_nothing_behind(tmp_path, tokenizer_dir):
    small = ModelConfig(name="nano", source="random", architecture=ARCHITECTURE | {"vocab_size": 4})
    with pytest.raises(ModelError, match="vocab_size is smaller than the tokenizer"):
        materialize_model(small, tmp_path / "model", 1, tokenizer_dir)
    gelu = ModelConfig(name="nano", source="random", architecture=ARCHITECTURE | {"hidden_act": "gelu"})
    with pytest.raises(ModelError, match="hidden_act"):
        materialize_model(gelu, tmp_path / "model", 1, tokenizer_dir)
    with pytest.raises(ModelError, match="needs a tokenizer"):
        materialize_model(MODEL, tmp_path / "model", 1, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer"]


def test_an_hf_folder_of_another_length_is_linked_beside_a_config_that_allows_it(tmp_path, tokenizer_dir):
    given = materialize_model(MODEL, tmp_path / "model", 1, tokenizer_dir)
    said = (given / "config.json").read_text()
    model = ModelConfig(name="mine", path=str(given), max_position_embeddings=128)
    longer = materialize_model(model, tmp_path / "longer", 1, None)
    assert materialize_model(model, longer, 1, None) == longer
    assert (given / "config.json").read_text() == said
    assert weights(longer) == weights(given)
    assert read_architecture(longer) == replace(read_architecture(given), max_position_embeddings=128)
    assert AutoModelForCausalLM.from_pretrained(longer).config.max_position_embeddings == 128
    as_it_is = ModelConfig(name="mine", path=str(given), max_position_embeddings=64)
    assert materialize_model(as_it_is, tmp_path / "unused", 1, None) == given


def test_an_hf_folder_with_another_model_than_expected_is_refused(tmp_path, tokenizer_dir):
    given = materialize_model(MODEL, tmp_path / "model", 1, tokenizer_dir)
    expected = ARCHITECTURE | {"vocab_size": 5}
    materialize_model(ModelConfig(name="mine", path=str(given), architecture=expected), tmp_path, 1, None)
    wrong = ModelConfig(name="mine", path=str(given), architecture=expected | {"num_hidden_layers": 3})
    with pytest.raises(ModelError, match=r"holds another model; got: .*num_hidden_layers 2, not 3"):
        materialize_model(wrong, tmp_path, 1, None)


def test_an_hf_folder_is_checked_and_used_where_it_is(tmp_path, tokenizer_dir):
    folder = materialize_model(MODEL, tmp_path / "model", 1, tokenizer_dir)
    model = ModelConfig(name="mine", path=str(folder))
    assert materialize_model(model, tmp_path / "unused", 1, None) == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer.json"):
        materialize_model(model, tmp_path / "unused", 1, None)
    with pytest.raises(ModelError, match="not a folder"):
        materialize_model(ModelConfig(name="mine", path=str(tmp_path / "absent")), tmp_path, 1, None)
