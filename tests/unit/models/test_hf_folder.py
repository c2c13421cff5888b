"""HF folders: everything that doesn't fit is listed, and a folder is complete or absent."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_config import architecture_from_hf
from nemo_cascade.models.hf_folder import HfTensors, write_hf_folder
from nemo_cascade.models.rules import hf_shapes

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
ARCH = architecture_from_hf(CONFIG)


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in hf_shapes(ARCH).items()}


@pytest.fixture
def companions(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": "bfloat16"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("old weights")
    return folder


def test_missing_surplus_and_wrong_shapes_are_listed_together(tmp_path):
    content = tensors()
    del content["model.layers.1.self_attn.q_norm.weight"]
    content["model.layers.0.mlp.up_proj.weight"] = torch.zeros(31, 16)
    content["model.layers.2.mlp.up_proj.weight"] = torch.zeros(32, 16)
    content["score.weight"] = torch.zeros(1, 16)
    save_file(content, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as refused:
        HfTensors(tmp_path).check(ARCH)
    message = str(refused.value)
    assert message.startswith("4 tensor(s)")
    for line in (
        "missing: model.layers.1.self_attn.q_norm.weight [4]",
        "wrong shape: model.layers.0.mlp.up_proj.weight is [31, 16], must be [32, 16]",
        "surplus: model.layers.2.mlp.up_proj.weight",
        "surplus: score.weight",
    ):
        assert line in message


def test_a_tied_tensor_stored_twice_must_be_the_same(tmp_path):
    content = tensors()
    content["lm_head.weight"] = content["model.embed_tokens.weight"].clone()
    save_file(content, tmp_path / "model.safetensors")
    HfTensors(tmp_path).check(ARCH)
    content["lm_head.weight"][49, 15] += 1
    save_file(content, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        HfTensors(tmp_path).check(ARCH)


def test_a_truncated_file_is_refused(tmp_path, companions):
    write_hf_folder(tmp_path / "out", tensors().items(), companions, shard_bytes=6000)
    HfTensors(tmp_path / "out").check(ARCH)
    first = sorted((tmp_path / "out").glob("*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:-7])
    with pytest.raises(ModelError):
        HfTensors(tmp_path / "out")


def test_shards_index_and_companions_are_written(tmp_path, companions):
    content, target = tensors(), tmp_path / "out"
    write_hf_folder(target, content.items(), companions, shard_bytes=6000)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in content.values())
    written = {name: tensor for file in files for name, tensor in load_file(target / file).items()}
    assert written.keys() == content.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in content.items())
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "torch_dtype" not in config
    assert {f.name for f in target.iterdir()} == {
        *files, "model.safetensors.index.json", "config.json", "tokenizer.json"
    }  # fmt: skip


def test_a_failure_while_writing_leaves_the_old_folder(tmp_path, companions):
    target = tmp_path / "out"
    write_hf_folder(target, tensors().items(), companions)

    def dies():
        yield from list(tensors().items())[:3]
        raise OSError("the sending rank died")

    with pytest.raises(OSError, match="died"):
        write_hf_folder(target, dies(), companions)
    HfTensors(target).check(ARCH)
    write_hf_folder(target, ((name, tensor + 1) for name, tensor in tensors().items()), companions)
    written = load_file(target / "model.safetensors")
    assert all(torch.equal(written[name], tensor + 1) for name, tensor in tensors().items())
