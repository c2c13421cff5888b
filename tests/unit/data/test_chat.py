import json
from pathlib import Path
from random import Random

import jinja2.sandbox
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nemo_cascade.data import chat
from nemo_cascade.errors import DataError

TEXTS = [
    "",
    "4",
    "What is 2+2?",
    "a\n\nb ",
    "naïve \U0001f600 漢字 e\u0301",
    "<think> is a tag",
    "\ttab",
    "/think about it",
]


def random_conversation(rng):
    """Messages, and by an independent writer their text with a mark on every trained byte."""
    messages, text, trained = [], b"", []

    def emit(piece, mark):
        nonlocal text
        text += piece.encode()
        trained.extend([mark] * len(piece.encode()))

    system = rng.choice([None, *TEXTS])
    if system is not None:
        messages.append({"role": "system", "content": system})
    emit(f"<|im_start|>system\n{chat.DEFAULT_SYSTEM if system is None else system}<|im_end|>\n", False)
    turns = rng.randint(1, 4)
    for turn in range(turns):
        question, answer, thinks = rng.choice(TEXTS), rng.choice(TEXTS[:5]).lstrip("\n"), rng.random() < 0.5
        user = {"role": "user", "content": question}
        if rng.random() < 0.3:
            user["mode"] = "think" if thinks else "no_think"
        reply, assistant = answer, {"role": "assistant", "content": answer}
        if thinks:
            thought = rng.choice(["so\n\n12", "hm \U0001f914"])
            reply = f"<think>\n{thought}\n</think>\n{answer}"
            if rng.random() < 0.5:
                assistant["reasoning_content"] = thought
            else:
                assistant["content"] = reply
        messages += [user, assistant]
        emit(f"<|im_start|>user\n{question} /{'think' if thinks else 'no_think'}<|im_end|>\n", False)
        emit("<|im_start|>assistant\n", False)
        emit(f"{reply}<|im_end|>", True)
        if turn < turns - 1:
            emit("\n", False)
    return messages, text, trained


def token_bytes(tokenizer):
    """Bytes of every token, from the vocabulary alone: byte-level BPE writes byte b as a printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    vocabulary = json.loads(Path(tokenizer.folder, "tokenizer.json").read_text(encoding="utf-8"))
    added = {t["id"]: t["content"].encode() for t in vocabulary["added_tokens"]}
    return {i: bytes(byte_of[c] for c in t) for t, i in vocabulary["model"]["vocab"].items() if i not in added} | added


def test_mask_marks_exactly_the_assistants_bytes(tokenizer):
    spelled = token_bytes(tokenizer)
    for seed in range(200):
        messages, text, trained = random_conversation(Random(seed))
        ids, mask = chat.encode_conversation(tokenizer, messages)
        assert b"".join(spelled[int(i)] for i in ids) == text
        per_byte = [bool(m) for i, m in zip(ids, mask, strict=True) for _ in spelled[int(i)]]
        assert per_byte == trained, f"conversation {seed}"


def test_prompt_is_an_exact_prefix_of_every_training_sample(tokenizer):
    for seed in range(100):
        messages, _, _ = random_conversation(Random(seed))
        whole, mask = chat.encode_conversation(tokenizer, messages)
        for end in (i for i, m in enumerate(messages) if m["role"] == "assistant"):
            mode = "think" if chat.render(messages[: end + 1])[-1].text.startswith("<think>\n") else "no_think"
            prompt = chat.encode_prompt(tokenizer, messages[:end], mode)
            assert np.array_equal(prompt, whole[: len(prompt)])
            assert mask[len(prompt) - 1] == 0
            assert mask[len(prompt)] == 1


def test_hf_template_gives_the_same_text():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(chat.CHAT_TEMPLATE)
    messages = [
        {"role": "user", "content": "a", "mode": "no_think"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    prompt = "".join(s.text for s in chat.render(messages, "think"))
    assert template.render(messages=messages, add_generation_prompt=True) == prompt
    whole = [*messages, {"role": "assistant", "content": "d", "reasoning_content": "e"}]
    assert template.render(messages=whole) == "".join(s.text for s in chat.render(whole))
    assert template.render(messages=messages[:1]).startswith("<|im_start|>system\nYou are a helpful")


def test_written_flag_is_kept_and_not_doubled():
    user = {"role": "user", "content": "hello /no_think"}
    assert chat.render([user], "think")[0].text.count("think") == 1


def test_empty_think_block_is_no_thinking():
    empty = {"role": "assistant", "content": "<think>\n\n</think>\n\nhi"}
    head, reply = chat.render([{"role": "user", "content": "q"}, empty])
    assert reply.text == "hi<|im_end|>"
    assert "q /no_think<|im_end|>" in head.text


USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([USER, {"role": "tool", "content": "x"}], "turn 1 has the unknown role 'tool'"),
        ([USER, USER], "turn 1 is the user's where the assistant's is due"),
        ([USER, ASSISTANT, {"role": "system", "content": "x"}], "turn 2 is a system turn that isn't the first"),
        ([USER, {"role": "assistant", "content": "<think>\nhm"}], "turn 1 (assistant) opens a think block that never"),
        ([{**USER, "mode": "think"}, ASSISTANT], "turn 0 (user) asks for think and is answered with no_think"),
        ([{**USER, "mode": "fast"}, ASSISTANT], "turn 0 (user) has the unknown mode 'fast'"),
        ([USER, {"role": "assistant", "content": "a<|im_end|>b"}], "turn 1 (assistant) holds a control token"),
        ([USER, {"role": "assistant"}], "turn 1 (assistant) has no text in `content`"),
        ([USER, {"role": "assistant", "content": " "}], "turn 1 (assistant) has no content"),
        ([USER], "no assistant turn"),
        ([USER, ASSISTANT, {**USER, "mode": "think"}], "the last turn isn't the assistant's"),
        ([], "no messages"),
    ],
)
def test_misshapen_conversation_is_named(messages, problem):
    assert any(p.startswith(problem) for p in chat.conversation_problems(messages))


def test_prompt_must_say_whether_its_reply_thinks(tokenizer):
    with pytest.raises(DataError, match="leaves open whether the reply thinks"):
        chat.encode_prompt(tokenizer, [USER], None)
    with pytest.raises(DataError, match="must end with a user turn"):
        chat.encode_prompt(tokenizer, [USER, ASSISTANT], "think")


def test_response_text_drops_only_the_final_end_token(tokenizer):
    ids = [*tokenizer.encode("<think>\na<|im_start|>b"), tokenizer.end_id]
    assert chat.response_text(tokenizer, ids) == "<think>\na<|im_start|>b"
    assert chat.response_text(tokenizer, ids[:-1]) == "<think>\na<|im_start|>b"


def test_tokenizer_without_control_tokens_is_refused_naming_all(tmp_path):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"<\|im_start\|>, <\|im_end\|>"):
        chat.load_tokenizer(tmp_path)


def test_tokenizer_that_adds_a_space_is_refused(tokenizer, tmp_path):
    settings = json.loads(Path(tokenizer.folder, "tokenizer.json").read_text(encoding="utf-8"))
    settings["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="doesn't give back the text"):
        chat.load_tokenizer(tmp_path)
