"""Bad data, given to the real command line: refused before anything starts, naming file, line and mend.

Settings that can't be run are refused in tests/unit/cli/test_main.py.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.cascade_process import MICRO

pytestmark = pytest.mark.e2e


def run(tmp_path, data_dir, *overrides):
    command = [sys.executable, "-m", "nemo_cascade", "run", "cascade=nano", "name=bad", f"runs_dir={tmp_path}/runs"]
    command += [f"data_dir={data_dir}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *overrides], capture_output=True, text=True, env=env, timeout=120)
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, text
    assert "Traceback" not in text
    assert not (tmp_path / "runs" / "bad").exists(), "a refused run left a run folder"
    return text


def spoiled_source(tmp_path, data_dir, line, spoil):
    """Copy the first lines of the first SFT file with one spoiled; return the overrides that use them."""
    lines = (data_dir / "nano" / "sft1.jsonl").read_text().splitlines()[:2000]
    lines[line - 1] = spoil(lines[line - 1])
    path = tmp_path / "spoiled.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return f"stages.sft1.data.sources=[{{path: {path}}}]"


@pytest.mark.long  # the whole set is read; the others end as it does
def test_broken_line_is_named(tmp_path, data_dir):
    source = spoiled_source(tmp_path, data_dir, 17, lambda line: line[: len(line) // 2])
    text = run(tmp_path, data_dir, source)
    assert "spoiled.jsonl:17" in text


def test_sample_without_assistant_turn_is_named(tmp_path, data_dir):
    def drop_answer(line):
        row = json.loads(line)
        row["messages"] = [m for m in row["messages"] if m["role"] != "assistant"]
        return json.dumps(row)

    text = run(tmp_path, data_dir, spoiled_source(tmp_path, data_dir, 5, drop_answer))
    assert "spoiled.jsonl:5" in text
    assert "assistant" in text


def test_tokenizer_without_special_tokens_is_refused(tmp_path, data_dir):
    from nemo_cascade.config.model import ModelConfig
    from nemo_cascade.models.sources import materialize_model

    architecture = {
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 512,
        "max_position_embeddings": 2048, "tie_word_embeddings": True,
    }  # fmt: skip
    model = ModelConfig(name="t", source="random", architecture=architecture)
    folder = materialize_model(model, tmp_path / "model", 0, data_dir / "nano" / "tokenizer")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<|im_end|>"]
    tokenizer["model"]["vocab"].pop("<|im_end|>", None)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    text = run(tmp_path, data_dir, "model.source=hf", f"model.path={folder}", "~model.architecture")
    assert "<|im_end|>" in text


def test_prompts_planted_in_sft_are_found_by_file_and_line(tmp_path, data_dir):
    """An evaluation prompt as it is, and an RL prompt with three words changed, among the 2,000 rows of SFT."""
    asked = (
        "A farmer has three fields and sows wheat on two of them every spring, each row of seeds taking him a quarter "
        "of an hour. If one field has twelve rows, how long does he work in all before the fourth of May?"
    )
    planted = asked.replace("farmer", "gardener").replace("wheat", "beans").replace("fourth", "tenth")
    evaluated = json.loads((data_dir / "nano" / "math_test.jsonl").read_text().splitlines()[6])["messages"][0]
    rl = tmp_path / "rl.jsonl"
    sums = [f"Compute {1000 + i}+{2000 + i}." for i in range(40)]
    rows = [{"messages": [{"role": "user", "content": text}], "answer": "6"} for text in [*sums, asked]]
    rl.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def with_prompt(text):
        turn = {"role": "user", "content": text}
        return lambda line: json.dumps({"messages": [turn, *json.loads(line)["messages"][1:]]})

    source = spoiled_source(tmp_path, data_dir, 777, with_prompt(evaluated["content"]))
    sft = tmp_path / "spoiled.jsonl"
    lines = sft.read_text().splitlines()
    lines[-1] = with_prompt(planted)(lines[-1])
    sft.write_text("\n".join(lines) + "\n")
    text = run(tmp_path, data_dir, *MICRO, "rollout.max_model_len=512", source, f"stages.math_rl.tasks.math.path={rl}")
    suite = data_dir / "nano" / "math_test.jsonl"
    assert "prompt sets overlap that must be disjoint" in text
    assert f"{sft}:777 is exactly {suite}:7" in text
    assert "1 of 41 prompts of stages.math_rl.tasks.math, allowed 0 of them, are in stages.sft1.data.sources.0" in text
    assert f"{sft}:{len(lines)} shares a run of words with {rl}:41" in text
