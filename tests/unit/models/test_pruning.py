"""Pruned models: what doesn't matter goes and changes nothing, transformers loads what is left, the rest is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_cascade.cli import main as command
from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.hf_folder import HfTensors
from nemo_cascade.models.importance import Measuring
from nemo_cascade.models.pruning import Kept, Wanted, cut_problems, followed_sizes, largest, prune_model, pruned
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.support.hf_models import PHI3, make_documents, reference_logits, write_hf_model

ROWS = make_documents((21, 13), 501)


def change(folder, change_tensor):
    """Rewrite a model's tensors by name."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        save_file({name: change_tensor(name, tensor) for name, tensor in tensors.items()}, file, {"format": "pt"})


def measuring(folder, family=None):
    return Measuring(folder, read_architecture(folder, family), [torch.from_numpy(row) for row in ROWS], "cpu")


@pytest.mark.parametrize(
    ("name", "dead", "written"),
    [
        ("qwen3_tied", {1, 4}, ("o_proj", "down_proj")),
        ("llama_linear", {0, 5}, ("o_proj", "down_proj")),
        ("nemotron_h_dense", {1, 2, 9}, ("o_proj", "down_proj", "out_proj")),
        ("nemotron_h", {1, 4, 7}, ("o_proj", "down_proj", "out_proj")),
    ],
)
def test_layers_that_write_nothing_go_and_the_logits_stay(tmp_path, name, dead, written):
    source, target = write_hf_model(tmp_path / "whole", name), tmp_path / "pruned"

    def silent(tensor_name, tensor):
        layer = next((int(part) for part in tensor_name.split(".") if part.isdigit()), None)
        return tensor * 0 if layer in dead and any(f"{matrix}.weight" in tensor_name for matrix in written) else tensor

    change(source, silent)
    arch = read_architecture(source)
    wanted = Wanted(layers=len(arch.layers) - len(dead))
    assert cut_problems(arch, wanted) == []
    told = []
    removals = measuring(source).removals(wanted, told.append)
    assert told == removals
    assert {one.layer for one in removals} == dead
    assert all(one.logit_mse[one.layer] == 0 for one in removals)
    assert min(mse for layer, mse in removals[0].logit_mse.items() if layer not in dead) > 1e-6
    kept = [layer for layer in range(len(arch.layers)) if layer not in dead]
    new = prune_model(source, target, arch, Kept(kept), {"pruning.json": "{}"})
    assert read_architecture(target) == new
    assert len(new.layers) == wanted.layers
    assert (target / "pruning.json").read_text() == "{}"
    left, right = reference_logits(source, ROWS), reference_logits(target, ROWS)
    assert abs(left - right).max() < 1e-5 * abs(left).max()


@pytest.mark.parametrize("name", ["qwen3_tied", "nemotron", "nemotron_h_dense"])
def test_channels_that_carry_nothing_go_and_the_logits_stay(tmp_path, name):
    source, target = write_hf_model(tmp_path / "whole", name), tmp_path / "pruned"
    arch = read_architecture(source)
    follows, hidden, width = followed_sizes(arch), arch.hidden_size, arch.dense.width
    generator = torch.Generator().manual_seed(3)
    heads = arch.attention.heads
    alive = {"hidden": torch.randperm(hidden, generator=generator)[: hidden - heads].sort().values}
    alive["ffn"] = torch.randperm(width, generator=generator)[: width - 31].sort().values

    def dead_channels(tensor_name, tensor):
        for place, size in enumerate(follows[tensor_name]):
            if size is not None:
                zeros = torch.zeros(tensor.shape[place])
                zeros[alive[size]] = 1
                tensor = tensor * zeros.view([-1 if i == place else 1 for i in range(tensor.dim())])
        return tensor

    change(source, dead_channels)
    scores = measuring(source).channels(())
    kept = Kept(
        range(len(arch.layers)),
        largest(scores.hidden, hidden - heads),
        {number: largest(score, width - 31) for number, score in scores.ffn.items()},
    )
    if name == "nemotron":  # its norms take the mean away and their weight is less one: no channel is dead
        kept = Kept(kept.layers, None, kept.ffn)
    else:
        assert kept.hidden.tolist() == alive["hidden"].tolist()
    dead = [channel for channel in range(width) if channel not in alive["ffn"]]
    assert all(score[dead].max() == 0 and score.max() > 0 for score in scores.ffn.values())
    assert set(kept.ffn) == {n for n, layer in enumerate(arch.layers) if layer.mlp is not None}
    new = prune_model(source, target, arch, kept, {})
    assert new.dense.width == width - 31
    if kept.hidden is not None:
        assert new.hidden_size == hidden - heads
        # A norm's mean is over fewer channels, of which none is zero any more.
        norms = [n for n, by in follows.items() if by == ("hidden",)]
        scale = math.sqrt(new.hidden_size / hidden)
        change(target, lambda n, tensor: tensor / scale if n in norms else tensor)
    left, right = reference_logits(source, ROWS), reference_logits(target, ROWS)
    assert abs(left - right).max() < 2e-4 * abs(left).max()


def test_the_scores_are_mean_absolute_activations_of_what_is_left(tmp_path):
    source = write_hf_model(tmp_path / "whole", "qwen3_untied")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(("layernorm", "model.norm")):
            module.register_forward_hook(lambda m, args, out, n=name: seen.setdefault(n, []).append(out.abs()[0]))
        if name.endswith("down_proj"):
            module.register_forward_hook(lambda m, args, out, n=name: seen.setdefault(n, []).append(args[0].abs()[0]))
    del model.model.layers[2]
    model.config.num_hidden_layers = 5
    with torch.no_grad():
        for row in ROWS:
            model(torch.from_numpy(row)[None], use_cache=False)
    mean = {name: torch.cat(values).double().mean(0) for name, values in seen.items()}
    scores = measuring(source).channels([2])
    norms = torch.stack([value for name, value in mean.items() if "norm" in name])
    assert len(norms) == 11
    torch.testing.assert_close(scores.hidden, norms.mean(0), rtol=1e-5, atol=1e-7)
    assert sorted(scores.ffn) == [0, 1, 3, 4, 5]
    torch.testing.assert_close(scores.ffn[3], mean["model.layers.3.mlp.down_proj"], rtol=1e-5, atol=1e-7)


def test_what_stands_layer_by_layer_in_a_config_is_cut_too_and_dtypes_stay(tmp_path):
    for name in ("qwen3_tied", "nemotron_h"):
        source = write_hf_model(tmp_path / name, name, torch.bfloat16)
        arch = read_architecture(source)
        new = prune_model(source, tmp_path / f"{name}_pruned", arch, Kept([0, 1, 3, 5]), {})
        config = json.loads((tmp_path / f"{name}_pruned" / "config.json").read_text())
        lists = [config[key] for key in ("layer_types", "layers_block_type") if key in config]
        assert lists
        assert all(len(listed) == 4 for listed in lists)
        before, after = HfTensors(source).stored, HfTensors(tmp_path / f"{name}_pruned").stored
        assert {tensor.dtype for tensor in after.values()} == {tensor.dtype for tensor in before.values()}
        assert new.layers == tuple(arch.layers[number] for number in (0, 1, 3, 5))


def problems(name, tmp_path, **wanted):
    arch = read_architecture(write_hf_model(tmp_path / "model", name))
    return [str(problem) for problem in cut_problems(arch, Wanted(**wanted))]


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("qwen3_tied", {}, "nothing is to be cut"),
        ("qwen3_tied", {"layers": 6}, "got: layers=6; allowed: 1 to 5"),
        ("qwen3_tied", {"layers": 0}, "mend: --layers 1"),
        ("qwen3_tied", {"ffn_width": 96}, "allowed: 1 to 95"),
        ("qwen3_tied", {"hidden_size": 40}, "a multiple of 12 = num_attention_heads; mend: --hidden-size 36"),
        ("qwen3_tied", {"hidden_size": 48}, "allowed: below 48"),
        ("qwen3_moe", {"ffn_width": 8}, "no dense MLP"),
        (
            "nemotron_h_dense",
            {"layers": 2},
            "allowed: 3 to 11: fewer than there are, and some of each kind (Mamba, MLP",
        ),
        ("nemotron_h_dense", {"layers": 3, "attention_layers": 2}, "allowed: 4 to 11"),
        ("nemotron_h_dense", {"layers": 6, "attention_layers": 3}, "so many attention layers can't stay"),
    ],
)
def test_sizes_that_can_not_be_had_are_refused(tmp_path, name, wanted, words):
    (told,) = problems(name, tmp_path, **wanted)
    assert words in told


def test_the_last_attention_layer_stays_however_little_it_matters(tmp_path):
    source = write_hf_model(tmp_path / "model", "nemotron_h_dense")
    change(source, lambda name, tensor: tensor * 0 if name.endswith("o_proj.weight") else tensor)
    removals = measuring(source).removals(Wanted(layers=8, attention_layers=1), lambda one: None)
    arch = read_architecture(source)
    left = pruned(arch, Kept([n for n in range(12) if n not in {one.layer for one in removals}]))
    assert left.attention is not None


def test_rows_that_can_not_be_told_apart_by_channel_are_refused(tmp_path):
    arch = read_architecture(write_hf_model(tmp_path / "model", "phi3"), PHI3)
    with pytest.raises(ModelError, match="can't be told apart by channel"):
        followed_sizes(arch)


def test_the_command_writes_a_model_and_its_scores_and_tells_programs(tmp_path, capsys):
    source, target, rows = write_hf_model(tmp_path / "whole", "qwen3_tied"), tmp_path / "pruned", tmp_path / "r.jsonl"
    train_nano_tokenizer((), tmp_path / "words")
    for file in (tmp_path / "words").iterdir():
        file.rename(source / file.name)
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    rows.write_text(json.dumps({"messages": turns, "mode": "no_think"}) + "\n")
    asked = ["prune", str(source), str(target), "--data", str(rows), "--layers", "4", "--ffn-width", "64"]
    assert command.main([*asked, "--hidden-size", "36", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [table["title"] for table in told["tables"]] == ["layers", "channels"]
    record = json.loads((target / "pruning.json").read_text())
    assert record["layers_kept"] == told["facts"]["layers_kept"]
    assert len(record["layers_kept"]) == 4
    assert [len(record["hidden"][key]) for key in ("kept", "mean_absolute")] == [36, 48]
    assert all([len(one[key]) for key in ("kept", "mean_absolute")] == [64, 96] for one in record["ffn"].values())
    arch = read_architecture(target)
    assert (len(arch.layers), arch.hidden_size, arch.dense.width) == (4, 36, 64)
    assert reference_logits(target, ROWS).shape == (34, 501)
    assert command.main([*asked, "--samples", "0"]) == command.REFUSED
    told = " ".join(capsys.readouterr().err.split())
    assert "the target exists" in told
    assert "too few samples" in told
    assert command.main(["prune", "nowhere", str(target), "--data", "nothing.jsonl"]) == command.REFUSED
    told = " ".join(capsys.readouterr().err.split())
    for words in ("not an HF model folder", "no such file", "the target exists"):
        assert words in told
