"""A reward model: the same in every layout, the same in transformers, the same after a restart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import ModelError
from nemo_cascade.losses.reward_model import BradleyTerry, Regression
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.support.tiny_policy import (
    Job,
    TinyPairs,
    launch_jobs,
    make_pairs,
    make_rated,
    policy_setup,
    write_tiny_folder,
)

STEPS, CUT = 4, 2
ENDED_BY = 7
LAYOUTS = {
    "single": ({}, (0,)),
    "dp2": ({"dp": 2}, (1, 2)),
    "tp2 sp": ({"tp": 2, "sp": True}, (0, 1)),
    "pp2 vpp2": ({"pp": 2, "vpp": 2}, (2, 3)),
    "cp2": ({"cp": 2}, (1, 2)),
}


RATED = {"rated": ({}, (1,)), "rated tp2 sp dp2": ({"tp": 2, "sp": True, "dp": 2}, (0, 1, 2, 3))}


def _train(worker, argument):
    """Train, stop in the middle, go on from the checkpoint; export."""
    setup, folder, make = argument
    source = TinyPairs(make=make)
    worker.setup(setup)
    steps = []
    for step in range(STEPS):
        steps.append(worker.train_step(source, step))
        if step + 1 == CUT:
            Path(folder, "checkpoint").mkdir(parents=True, exist_ok=True)
            worker.save_checkpoint(str(Path(folder, "checkpoint")), {"step": CUT})
    worker.export_hf(str(Path(folder, "hf")))
    scores = worker.outputs(source, 0)
    worker.setup(setup)
    assert worker.load_checkpoint(str(Path(folder, "checkpoint"))) == {"step": CUT}
    resumed = [worker.train_step(source, step) for step in range(CUT, STEPS)]
    return steps, resumed, scores


def _export(worker, argument):
    setup, folder = argument
    worker.setup(setup)
    worker.export_hf(str(Path(folder, "hf")))


def _write_chats(folder):
    """Write a model whose EOS is a base model's and whose chats, Nemotron-4's, end otherwise."""
    write_tiny_folder(folder, vocab_size=512, eos_token_id=ENDED_BY)
    train_nano_tokenizer((), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in NAMED["nemotron_4"].control])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": NAMED["nemotron_4"].jinja, "pad_token": NAMED["nemotron_4"].turn_end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDED_BY, "temperature": 0.6}))
    return str(folder)


def _refuse(worker, setup):
    try:
        worker.setup(setup)
    except ModelError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("reward")


@pytest.fixture(scope="module")
def answers(root):
    qwen3 = write_tiny_folder(root / "qwen3")
    llama = write_tiny_folder(root / "llama", model_type="llama", architectures=["LlamaForCausalLM"])
    jobs = []
    for name, (layout, ranks) in LAYOUTS.items():
        setup = policy_setup(qwen3, objective=BradleyTerry(), **layout)
        jobs.append(Job(name, ranks, _train, (setup, str(root / name), make_pairs)))
    setup = policy_setup(llama, objective=BradleyTerry())
    jobs.append(Job("llama", (3,), _train, (setup, str(root / "llama-trained"), make_pairs)))
    for name, (layout, ranks) in RATED.items():
        setup = policy_setup(qwen3, objective=Regression((("a", 0.0), ("b", 0.7), ("c", -0.3))), **layout)
        jobs.append(Job(name, ranks, _train, (setup, str(root / name), make_rated)))
    chats = _write_chats(root / "chats")
    jobs.append(Job("policy", (1,), _export, (policy_setup(chats), str(root / "policy"))))
    rewards = policy_setup(chats, objective=BradleyTerry())
    jobs.append(Job("rewards", (2,), _export, (rewards, str(root / "rewards"))))
    jobs.append(Job("as policy", (0,), _refuse, policy_setup(str(root / "single" / "hf"))))
    return launch_jobs(jobs, deadline_s=300)


def _curve(steps):
    names = ("accuracy", "margin") if "accuracy" in steps[0].metrics else ("error", "error_a", "error_b", "error_c")
    return np.array([(s.loss, s.grad_norm, *(s.metrics[name] for name in names)) for s in steps])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "single"])
def test_every_layout_trains_as_one_process_does(answers, layout):
    expected = _curve(answers["single"][0][0])
    assert expected[0, 0] != expected[-1, 0]
    np.testing.assert_allclose(_curve(answers[layout][0][0]), expected, rtol=2e-4, atol=1e-5)


def test_ratings_are_trained_in_every_layout_as_in_one_process(answers):
    expected = _curve(answers["rated"][0][0])
    assert expected[-1, 0] < expected[0, 0]
    np.testing.assert_allclose(_curve(answers["rated tp2 sp dp2"][0][0]), expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*LAYOUTS, *RATED, "llama"])
def test_a_restart_repeats_the_steps_to_the_last_bit(answers, name):
    steps, resumed, _ = answers[name][0]
    assert steps[CUT:] == resumed


@pytest.mark.parametrize("name", [*LAYOUTS, *RATED, "llama"])
def test_transformers_gives_the_exported_model_the_same_scores(answers, root, name):
    from transformers import AutoModelForSequenceClassification

    folder = root / (name if name != "llama" else "llama-trained") / "hf"
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_labels == (3 if name in RATED else 1)
    got = np.concatenate([score for rank in answers[name] for score in (rank[2] or [])])
    want = []
    for pack in TinyPairs().packs(0):
        for begin, end in zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True):
            with torch.no_grad():
                want.append(model(torch.from_numpy(pack.input_ids[begin:end])[None]).logits[0].tolist())
    assert len(set(map(tuple, want))) > 10
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_exported_model_says_how_its_outputs_make_a_score(root, answers):
    head = read_architecture(root / "rated" / "hf").head
    assert (head.names, head.weights) == (("a", "b", "c"), (0.0, 0.7, -0.3))


def test_a_reward_model_is_refused_as_a_policy(answers):
    assert "can't be a policy" in answers["as policy"][0]


@pytest.mark.parametrize("kind", ["policy", "rewards"])
def test_an_exported_folder_says_what_ends_a_reply_and_what_may_fill_a_batch(answers, root, kind):
    tokenizer = load_tokenizer(root / "chats")
    config, generation = (
        json.loads((root / kind / "hf" / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    assert tokenizer.end_id != ENDED_BY
    if kind == "policy":
        assert config["eos_token_id"] == generation["eos_token_id"] == tokenizer.end_id
        assert generation["temperature"] == 0.6  # nothing else is changed
    else:
        assert config["pad_token_id"] == tokenizer.special_ids["<|endoftext|>"]
