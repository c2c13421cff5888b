"""Cases of models, training, rollout, configuration and command line, out of public reports, through the product.

Each is named by its kind: K1..K20 failed once, C1..C8 held. What needs Megatron ranks, engines or a whole run is held
elsewhere: C3 in tests/distributed/test_hf_parity.py, C5 in test_rollout_engine.py, C6 in test_layout_curves.py and
unit/rl/test_updates.py (K13 too), C7 in tests/e2e.
"""

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig

from nemo_cascade.actors.agreement import Distance, Limits, limits
from nemo_cascade.cli import main as command
from nemo_cascade.cli.preflight import preflight
from nemo_cascade.cli.verbs import run as run_verb
from nemo_cascade.config.checks import host
from nemo_cascade.config.model import ModelConfig, OptimizerConfig, ParallelConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.explain import explain
from nemo_cascade.config.rollout import WeightSyncConfig
from nemo_cascade.data.chat.end_of_turn import stop_token_ids
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import CascadeError, CheckpointError, ConfigError, DataError, ModelError, TrainingError
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.models.hf_config import architecture_from_hf, read_architecture
from nemo_cascade.models.hf_folder import HfTensors
from nemo_cascade.models.rules import hf_shapes
from nemo_cascade.models.sources import materialize_model
from nemo_cascade.report.page import write_report
from nemo_cascade.rollout.manifest import WeightManifest
from nemo_cascade.stages.context import StageCheckpoints
from nemo_cascade.stages.evaluate import evaluate
from nemo_cascade.training.checkpoints.folders import MANIFEST, CheckpointStore, verify
from nemo_cascade.training.schedule import check_warm_up, learning_rate
from tests.unit.cascade.conftest import config, finished_folder, run_folder  # noqa: F401

PUBLIC = [json.loads(line) for line in (Path(__file__).parent / "public_configs.jsonl").read_text().splitlines()]
TINY = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 64,
}
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def write_tokenizer(folder, template=TEMPLATE, extra=()):
    """Write a byte-level tokenizer with several tokens that may end something; returns token -> id."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*HEADERS, *ENDS, *extra)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return {token: tokenizer.token_to_id(token) for token in (*HEADERS, *ENDS, *extra)}


def write_model(folder, changes=None, surplus=None, **more):
    """Write config.json and sound weights; `surplus` are further tensors, `more` changes of the config."""
    fields = {**TINY, **(changes or {}), **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    weights = {name: torch.zeros(shape) for name, shape in hf_shapes(architecture_from_hf(fields)).items()}
    save_file({**weights, **(surplus or {})}, folder / "model.safetensors")
    return weights


# --- K1: an engine stops where the template ends a turn ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "eos", "due"),
    [
        (None, "<|end_of_text|>", ["<|eot_id|>"]),
        (["<|end_of_text|>", "<|eot_id|>"], None, ["<|end_of_text|>", "<|eot_id|>"]),
        (["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], "<|end_of_text|>", list(ENDS[:3])),
        ("<|im_end|>", None, ["<|eot_id|>"]),
        (None, None, ["<|eot_id|>"]),
        ("<|eot_id|>", "<|im_end|>", ["<|eot_id|>"]),
    ],
)
def test_k1_responses_end_with_the_token_that_ends_a_turn(tmp_path, generation, eos, due):
    ids = write_tokenizer(tmp_path)

    def numbers(names):
        return [ids[n] for n in names] if isinstance(names, list) else None if names is None else ids[names]

    (tmp_path / "config.json").write_text(json.dumps(TINY | {"eos_token_id": numbers(eos)}))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": numbers(generation)}))
    assert stop_token_ids(tmp_path) == numbers(due)
    assert load_tokenizer(tmp_path).end_id in stop_token_ids(tmp_path)


# --- K2, K3, C4: weight files -----------------------------------------------------------------------------------------


def test_k2_trainer_and_engine_expect_the_same_weights(tmp_path):
    whole = write_model(tmp_path, surplus={"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)})
    HfTensors(tmp_path).check(read_architecture(tmp_path))
    assert set(WeightManifest.of_folder(tmp_path).shapes) == set(whole)
    # Sharded, with an index, beside another layout's file of the same weights.
    (tmp_path / "model.safetensors").unlink()
    names = sorted(whole)
    for number, part in enumerate((names[:3], names[3:])):
        save_file({name: whole[name] for name in part}, tmp_path / f"model-{number}.safetensors")
    places = {name: f"model-{int(name in names[3:])}.safetensors" for name in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    save_file({"layers.0.attention.wq.weight": torch.zeros(16, 16)}, tmp_path / "consolidated.safetensors")
    HfTensors(tmp_path).check(read_architecture(tmp_path))
    assert set(WeightManifest.of_folder(tmp_path).shapes) == set(whole)
    # K3: an index that is about other files than lie there.
    index.write_text(json.dumps({"weight_map": places | {names[0]: "model-1.safetensors"}}))
    with pytest.raises(ModelError, match="list different tensors"):
        HfTensors(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {names[0]: "model-7.safetensors"}}))
    with pytest.raises(ModelError, match=r"missing.*model-7"):
        HfTensors(tmp_path)
    index.write_text(json.dumps({"weight_map": places}))
    save_file(whole, tmp_path / "model.safetensors")  # newer than the index, transformers would read it
    with pytest.raises(ModelError, match="two checkpoints in one folder"):
        HfTensors(tmp_path)
    index.unlink()
    with pytest.raises(ModelError, match="a tensor is in two files"):
        HfTensors(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_c4_half_and_mixed_precision_are_taken(tmp_path, dtype):
    whole = write_model(tmp_path)
    mixed = {name: tensor if "norm" in name else tensor.to(dtype) for name, tensor in whole.items()}
    save_file(mixed, tmp_path / "model.safetensors")
    HfTensors(tmp_path).check(read_architecture(tmp_path))


def test_c4_what_does_not_belong_to_the_model_is_refused_by_name(tmp_path):
    for name, shape in (("v_head.summary.weight", (1, 16)), ("model.layers.1.eh_proj.weight", (16, 32))):
        write_model(tmp_path, surplus={name: torch.zeros(shape)})
        with pytest.raises(ModelError, match=f"surplus: {name}"):
            HfTensors(tmp_path).check(read_architecture(tmp_path))
    tied = {"tie_word_embeddings": True}
    write_model(tmp_path, tied, {"lm_head.weight": torch.ones(400, 16)})
    with pytest.raises(ModelError, match=r"although config\.json says they are tied"):
        HfTensors(tmp_path).check(read_architecture(tmp_path))
    head = {"lm_head.weight": torch.ones(400, 16)}
    save_file({**{k: v for k, v in write_model(tmp_path, tied).items() if "embed" not in k}, **head},
              tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(ModelError, match=r"missing: model\.embed_tokens"):
        HfTensors(tmp_path).check(read_architecture(tmp_path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_c4_k15_quantised_weights_are_called_so(tmp_path, dtype):
    whole = write_model(tmp_path)
    save_file({name: tensor.to(dtype) for name, tensor in whole.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"the weights are quantised.*give the checkpoint in bf16"):
        HfTensors(tmp_path)


# --- K4, K14, C1, C2: config.json -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: case["model"])
def test_c1_a_public_config_is_read_as_transformers_reads_it(case):
    fields = dict(case["config"])
    arch = architecture_from_hf(fields)
    theirs = AutoConfig.for_model(**fields)
    rope = dict(theirs.rope_parameters)
    assert arch.tied == theirs.tie_word_embeddings
    attention = arch.layers[0].mixer
    assert (attention.groups, len(arch.layers)) == (theirs.num_key_value_heads, theirs.num_hidden_layers)
    assert attention.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert (arch.norm.epsilon, arch.positions.theta) == (theirs.rms_norm_eps, rope["rope_theta"])
    assert (arch.positions.scaling is not None) == (rope["rope_type"] != "default")
    if arch.positions.scaling is not None:
        assert arch.positions.scaling.factor == rope["factor"]


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "qwen3_5", "deepseek_v3", "jamba"])
def test_c2_another_family_is_refused_with_those_that_are_taken(family):
    taken = "llama, mistral, nemotron, nemotron_h, qwen2, qwen3, qwen3_moe"
    with pytest.raises(ModelError, match=rf"{family}; allowed: {taken}; mend: take a model of these"):
        architecture_from_hf(TINY | {"model_type": family})


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
                "rope_scaling": {"type": "yarn", "factor": 4.0},
            },
            "yarn",
        ),
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
                "rope_scaling": {"rope_type": "llama3", **LLAMA3},
            },
            "beside another rope_parameters",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "linear"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "longrope"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1}},
            "mscale",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"type": "default", "rope_type": "yarn", "factor": 4.0}}, "differ"),
        ({"rope_theta": math.nan}, "rope_theta"),
        ({"rope_theta": math.inf}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": math.nan}}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": True}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": math.nan}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ({"rope_scaling": "yarn"}, "rope_scaling"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"layer_types": 3}, "layer_types"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": 16.0}, "hidden_size"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"model_type": "mistral"}, "sliding"),  # a window of 4096 where nothing is said
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}, "sliding"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    ],
)
def test_k4_k8_what_others_read_otherwise_is_refused_by_field(fields, words):
    with pytest.raises(ModelError, match=words):
        architecture_from_hf(TINY | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"unsloth_fixed": True},
        {"unsloth_version": "2025.1"},
        {"partial_rotary_factor": 1.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
        {"model_type": "qwen2", "sliding_window": 32768},
        {"model_type": "mistral", "sliding_window": None},
        {"tokenizer_class": "LlamaTokenizer", "max_length": 20, "temperature": 1.0, "top_k": 50, "return_dict": True},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5,
         "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    ],
)  # fmt: skip
def test_k14_what_changes_nothing_is_taken(fields):
    architecture_from_hf(TINY | fields)


# --- K5: tokens beyond the vocabulary ---------------------------------------------------------------------------------


def test_k5_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    ids = write_tokenizer(tmp_path, extra=["<|pad|>"])
    write_model(tmp_path, vocab_size=ids["<|pad|>"])
    model = ModelConfig(name="tiny", source="hf", path=str(tmp_path))
    with pytest.raises(ModelError, match=rf"<\|pad\|> = {ids['<|pad|>']}; allowed: ids below vocab_size="):
        materialize_model(model, tmp_path / "made", 0, None)
    write_model(tmp_path, vocab_size=ids["<|pad|>"] + 1)
    assert materialize_model(model, tmp_path / "made", 0, None) == tmp_path


# --- K6, K7, K12, C8: configuration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.math_rl.sampling.temperature=2.5", "less than or equal to 2"),
        ("evaluation.suites.math.sampling.temperature=3", "less than or equal to 2"),
        ("stages.math_rl.sampling.temperature=0.001", "0.01 and above"),
        ("stages.math_rl.sampling.temperature=-1", "greater than or equal to 0"),
        ("stages.math_rl.sampling.top_k=3000000000", "2147483647"),
        ("seed=4294967296", "4294967295"),
        ("seed=-1", "greater than or equal to 0"),
        ("stages.sft1.data.shuffle_seed=18446744073709551616", "4294967295"),
        ("stages.math_rl.optimizer.lr=1e-4x", "1e-4x"),
        ("stages.math_rl.optimizer.lr=nan", "optimizer.lr"),
        ("stages.math_rl.optimizer.lr=inf", "optimizer.lr"),
        ("stages.math_rl.optimizer.lr=0", "optimizer.lr"),
        ("stages.math_rl.optimizer.lr=null", "optimizer.lr"),
        ("+seed=3", "+ adds, but the key has a value"),
        ("++rollout.num_engine=3", "did you mean rollout.num_engines?"),
        ("~rollout.nothing", "unknown key"),
        ("name=${oc.env:NO_SUCH_VARIABLE_HERE}", "NO_SUCH_VARIABLE_HERE"),
        ("name=${name}", "name"),
        ("stages.math_rl.sampling.top_k=1.5", "top_k"),
        ("stages.math_rl.optimizer.min_lr=1", "ends above its peak"),
        ("stages.math_rl.optimizer.lr_warmup_steps=20", "warm-up takes the whole schedule"),
        ("stages.sft1.optimizer.lr_decay_style=inverse_sqrt", "constant"),
        # K15: what YAML makes of a name
        ("name=2024_01", """'name="2024_01"' in a shell"""),
        ("name=1e5", """'name="1e5"' in a shell"""),
        # C8: what nobody could use as a folder, a date or a template
        (f"name={'x' * 300}", "too long for a folder"),
        ("runs_dir=", "runs_dir names no folder"),
        ("data_dir=", "data_dir names no folder"),
        ("model.chat_template_date=yesterday", "a day of the calendar"),
        ("model.chat_template_date=2026-02-30", "a day of the calendar"),
        ("model.chat_template=nope", "no such chat template"),
        ("model.chat_template=/no/such.jinja", "no such chat template"),
    ],
)
def test_k6_k7_c8_values_that_a_library_would_refuse_or_alter_are_refused_before(override, words, monkeypatch):
    monkeypatch.setattr(host, "gpu_present", lambda: False)
    with pytest.raises(ConfigError) as refused:
        preflight(["cascade=nano", override], None, fresh_folder=True)
    assert any(words in violation for violation in refused.value.violations), refused.value.violations


def test_k7_the_largest_seed_is_taken():
    assert compose(["cascade=nano", "seed=4294967295"])[0].seed == 2**32 - 1


def test_k11_what_is_carried_over_is_what_the_text_says():
    [told] = explain("stages.sft2.carry.optimizer")
    assert "this stage's own schedule from its first step" in told.meaning


def test_k12_a_warm_up_longer_than_the_epochs_turn_out_is_refused():
    optimizer = OptimizerConfig(lr=3e-3, lr_warmup_steps=100_000)
    with pytest.raises(TrainingError, match=r"stages\.sft1\.optimizer: 100000 steps of warm-up; allowed: less than 14"):
        check_warm_up(optimizer, 14, "sft1")
    check_warm_up(OptimizerConfig(lr=3e-3, lr_warmup_steps=13), 14, "sft1")
    check_warm_up(OptimizerConfig(lr=3e-3, lr_warmup_steps=20, lr_decay_steps=100), 14, "sft1")
    cosine = OptimizerConfig(lr=1.0, lr_warmup_steps=2, lr_decay_style="cosine")
    rates = [learning_rate(cosine, step, 6) for step in range(8)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0], abs=1e-6)


# --- K8: files that users bring ---------------------------------------------------------------------------------------

DAMAGES = {
    "list": b"[]", "null": b"null", "number": b"3", "empty": b"", "cut": b'{"a": [1,', "latin": b'{"a": "\xe4"}',
    "nested": b"[" * 100_000, "huge": b'{"a": ' + b"9" * 10_000 + b"}", "bom": b"\xef\xbb\xbf{}", "nul": b"\0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", read_architecture),
        ("model.safetensors.index.json", HfTensors),
        ("tokenizer_config.json", load_tokenizer),
        ("generation_config.json", stop_token_ids),
        ("tokenizer.json", load_tokenizer),
    ],
)
def test_k8_a_malformed_file_is_refused_by_name(tmp_path, name, read, damage):
    write_tokenizer(tmp_path)
    write_model(tmp_path)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(CascadeError, match=name.replace(".", r"\.")):
        read(tmp_path)


def test_k8_templates_and_weights_that_are_none(tmp_path):
    write_tokenizer(tmp_path)
    write_model(tmp_path)
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CascadeError, match=r"mine\.jinja"):
        install(tmp_path, str(tmp_path / "mine.jinja"), tmp_path / "beside")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"damaged safetensors file; got: .*model\.safetensors"):
        HfTensors(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match=r"not a fast tokenizer.*tokenizer\.json"):
        load_tokenizer(tmp_path)


NANO = """# @package _global_
defaults:
  - nano
  - _self_
name: mine
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NANO.replace("# @package _global_\n", "").replace("  - nano\n", "  - override /model: nano\n").encode(),
         "let its first line be: # @package _global_"),
        (NANO.replace("  - nano\n", "  - override /modl: nano\n").encode(), "did you mean override /model?"),
        (NANO.replace("  - nano\n", "  - override /model: nanoo\n").encode(), "did you mean override /model: nano?"),
        (NANO.replace("defaults:", "default:").encode(), "no defaults list"),
        (NANO.replace("defaults:\n  - nano\n  - _self_", "defaults: 3").encode(), "`defaults` is no list"),
        (b"# @package _global_\ndefaults:\n  - 3\n", "can't be read"),
        (NANO.encode() + b"# \xe4\n", "not UTF-8"),
        (NANO.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf" + NANO.replace("  - nano\n", "").encode(), "byte order mark"),
        (NANO.encode() + b"\0", "no YAML"),
        (NANO.encode() + b"name: again\n", "duplicate key"),
        (b"- a\n", "no mapping"),
        (b"", "no mapping"),
        (NANO.replace("mine", "[").encode(), "no YAML"),
    ],
)  # fmt: skip
def test_k8_k15_a_config_file_of_the_users_own_is_named_with_its_mistake(tmp_path, content, words):
    (tmp_path / "cascade").mkdir()
    file = tmp_path / "cascade" / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        compose(["cascade=mine"], tmp_path)
    assert any(words in violation and str(file) in violation for violation in refused.value.violations), refused.value


def test_k15_a_layout_with_too_few_groups_is_answered_with_sizes_that_fit():
    arch = architecture_from_hf(TINY)
    [problem] = layout_problems(arch, ParallelConfig(tensor_model_parallel_size=8, data_parallel_size=8))
    assert "sizes that fit: 1, 2, 4" in problem
    assert "pad_attention_groups=true" not in problem


# --- K9, K16, C7: the system says no ----------------------------------------------------------------------------------


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "gpu_present", lambda: False)

    def run(*arguments):
        code = command.main(arguments)
        return code, " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; got: /runs/x; mend: make room"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "runs_dir="),
        (errno.EROFS, "read-only"),
        (errno.EIO, "the device failed"),
        (errno.EMFILE, "ulimit"),
    ],
)
def test_k9_what_the_system_refuses_is_no_defect(cli, monkeypatch, number, words):
    def refuse(args):
        raise OSError(number, os.strerror(number), "/runs/x")

    monkeypatch.setattr(run_verb, "execute", refuse)
    code, told = cli("run", "cascade=nano")
    assert code == 2
    assert "defect" not in told
    assert words in told


def test_k9_an_error_on_the_way_out_does_not_hide_the_first(cli, monkeypatch):
    def refuse(args):
        try:
            raise CheckpointError("the checkpoint could not be written", value="No space left on device")
        finally:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    monkeypatch.setattr(run_verb, "execute", refuse)
    code, told = cli("run", "cascade=nano")
    assert code == 2
    assert told.index("the checkpoint could not be written") < told.index("report.html")


@pytest.mark.parametrize("overrides", [["runs_dir=/proc/x"], ["runs_dir=/dev/null"], ["data_dir=/proc/x"]])
def test_k9_a_place_that_can_not_be_written_is_named(cli, overrides):
    code, told = cli("run", "cascade=nano", *overrides)
    assert code == 2
    assert "defect" not in told
    assert overrides[0].partition("=")[2] in told


def test_k9_the_current_folder_was_deleted(cli, tmp_path, monkeypatch):
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    monkeypatch.chdir(doomed)
    doomed.rmdir()
    code, told = cli("run", "cascade=nano", "--config-dir", "mine", "--dry")
    assert code == 2
    assert "defect" not in told


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_k16_a_closed_stream_ends_nothing(closed, tmp_path):
    # What would be printed into a file that got the number of a closed stream shows in it.
    script = f'exec "{sys.executable}" -m nemo_cascade explain seed {closed}'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(["sh", "-c", script], check=False, capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert (b"Seeds everything" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


# --- K10: reports of damaged and older runs ---------------------------------------------------------------------------


def _metrics_with(value):
    def damage(folder):
        file = folder / "stages/01-sft1/metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        lines[3]["loss"] = value
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return damage


def _written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _changed(name, **changes):
    def damage(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | changes))

    return damage


def _without_reward(folder):
    import yaml

    stored = yaml.safe_load((folder / "config.yaml").read_text())
    del stored["reward"]
    for stage in stored["stages"].values():
        for task in stage.get("tasks", {}).values():
            del task["reward"]
    (folder / "config.yaml").write_text(yaml.safe_dump(stored))


@pytest.mark.parametrize(
    "damage",
    [
        _without_reward,
        _written("config.yaml", b"name: \xff\xfe"),
        _written("config.yaml", b""),
        _written("config.yaml", b"- a"),
        _written("config.yaml", b"stages: [1, 2]\nmodel: tiny\n"),
        _written("config.yaml", b"stages: {sft1: 3, math_rl: {kind: grpo}, code_rl: null}\n"),
        _metrics_with("high"),
        _metrics_with([1.0]),
        _metrics_with({"a": "b"}),
        _written("stages/01-sft1/metrics.jsonl", b"[1]\n[2]\n"),
        _written("stages/01-sft1/scores.json", b"{"),
        _written("stages/01-sft1/scores.json", b"{}"),
        _written("stages/02-math_rl/gate.json", b"[]"),
        _changed("stages/02-math_rl/gate.json", alpha="small"),
        _changed("stages/02-math_rl/gate.json", outcome=3),
        _changed("stages/02-math_rl/gate.json", rows=[{"domain": "math"}]),
        _written("hygiene.json", b'{"rules": 3, "files": 4, "pairs": 5}'),
        _written("hygiene.json", b"{"),
        _written("stages/02-math_rl/preference.json", b"{}"),
        _written("stages/02-math_rl/rollouts/step_000040.jsonl.gz", b"no gzip"),
    ],
    ids=lambda damage: damage.__qualname__,
)
def test_k10_a_report_of_any_folder_is_a_page_with_a_notice(run_folder, damage):  # noqa: F811
    sound = told_at_the_top(write_report(run_folder.path))
    damage(run_folder.path)
    page = write_report(run_folder.path)
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert told_at_the_top(page) - sound


def told_at_the_top(page):
    header = page.read_text(encoding="utf-8").partition("</header>")[0]
    return set(re.findall(r"<p>(.*?)</p>", header, re.DOTALL))


# --- K17, K20: checkpoints --------------------------------------------------------------------------------------------


def committed(store, step, state=None):
    with store.saving(step) as folder:
        (folder / "state.json").write_text(json.dumps(state or {"step": step}))
    return store.folder / f"step_{step:06d}"


def test_k17_a_stage_does_not_go_on_with_other_data(tmp_path):
    policy = SimpleNamespace(load_checkpoint=lambda folder: json.loads((Path(folder) / "state.json").read_text()))
    context = SimpleNamespace(folder=tmp_path, name="sft1", record=lambda event, **details: None)
    kept = StageCheckpoints(context, compose(["cascade=nano"])[0].stages["sft1"], 12)
    committed(kept.store, 4, {"step": 4, "data": "a" * 32})
    assert kept.resume(policy, same={"data": "a" * 32})[0] == 4
    with pytest.raises(CheckpointError, match=r"data changed since the checkpoint.*mend: restore the files"):
        kept.resume(policy, same={"data": "b" * 32})
    committed(kept.store, 8)
    with pytest.raises(CheckpointError, match="lacks data"):  # an older form tells nothing of its data
        kept.resume(policy, same={"data": "a" * 32})


def test_k20_a_checkpoint_under_another_number_is_refused(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    first = committed(store, 2)
    shutil.copytree(first, tmp_path / "step_000009")
    assert store.newest() == (2, first)
    assert "it is the checkpoint of step 2, copied or renamed" in store.damaged[0]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_k8_a_damaged_manifest_is_passed_over(tmp_path, damage):
    store = CheckpointStore(tmp_path, keep=9)
    first, second = committed(store, 1), committed(store, 2)
    (second / MANIFEST).write_bytes(damage)
    assert verify(second).startswith(MANIFEST)
    assert store.newest() == (1, first)


# --- K18, K19: the weight proof, the documented command ---------------------------------------------------------------


def test_k18_the_proofs_limit_is_the_dtypes():
    floor = Distance(mean=0.002, quantile=0.01, max=0.02)
    exact, rounded = (limits(WeightSyncConfig(), floor, *sides) for sides in (("fp32", "fp32"), ("bf16", "fp32")))
    assert exact == Limits(None, None, 1e-3)
    assert rounded == limits(WeightSyncConfig(), floor, "bf16", "bf16") == Limits(0.1, 0.5, None)
    assert limits(WeightSyncConfig(), floor, "fp8", "bf16").mean > rounded.mean
    # What two sound sides were apart, of which one rounds.
    assert rounded.hold(Distance(mean=0.0037, quantile=0.02, max=0.0214))
    own = WeightSyncConfig(max_logprob_difference=0.01)
    assert limits(own, floor, "bf16", "bf16") == Limits(None, None, 0.01)


def test_k18_without_suites_no_engine_is_asked():
    def asked(*_):
        raise AssertionError("an engine was started")

    roles = SimpleNamespace(engines_with=asked, judges=asked)
    assert evaluate(compose(["cascade=nano"])[0], roles, Path("hf"), 1, "sft1", {}, {}).samples == {}


def test_k19_nano_on_one_gpu_plans(monkeypatch):
    monkeypatch.setattr(host, "gpu_present", lambda: True)
    overrides = ["cascade=nano", "cluster=dgx_h100", "cluster.gpus_per_node=1", "precision=bf16", "parallel=single"]
    overrides.append("rollout.num_engines=1")
    assert preflight(overrides, None, fresh_folder=True, elsewhere=True).stages
