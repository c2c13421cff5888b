import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nemo_cascade.data.chat import encode
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.errors import DataError, TemplateError

CASCADE1, CASCADE2 = NAMED["cascade1"], NAMED["cascade2"]
CALL = {"name": "f", "arguments": {}}
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def text_of(segments):
    return "".join(s.text for s in segments)


def test_written_flag_is_kept_and_not_doubled():
    user = {"role": "user", "content": "hello /no_think"}
    assert CASCADE1.render([user], "think")[0].text.count("think") == 1


def test_empty_think_block_is_no_thinking():
    empty = {"role": "assistant", "content": "<think>\n\n</think>\n\nhi"}
    head, reply = CASCADE1.render([USER, empty])
    assert reply.text == "hi<|im_end|>"
    assert "q /no_think<|im_end|>" in head.text


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([USER, {"role": "critic", "content": "x"}], "turn 1 has the unknown role 'critic'"),
        ([USER, {"role": "tool", "content": "x"}], "turn 1 is the tool's where the assistant's is due"),
        (
            [USER, ASSISTANT, {"role": "tool", "content": "x"}, ASSISTANT],
            "turn 2 is the tool's where the user's is due",
        ),
        ([USER, USER], "turn 1 is the user's where the assistant's is due"),
        ([USER, ASSISTANT, {"role": "system", "content": "x"}], "turn 2 is a system turn that isn't the first"),
        ([USER, {"role": "assistant", "content": "<think>\nhm"}], "turn 1 (assistant) opens a think block that never"),
        ([{**USER, "mode": "think"}, ASSISTANT], "turn 0 (user) asks for think and is answered with no_think"),
        ([{**USER, "mode": "fast"}, ASSISTANT], "turn 0 (user) has the unknown mode 'fast'"),
        ([USER, {"role": "assistant", "content": "a<|im_end|>b"}], "turn 1 (assistant) holds a control token"),
        ([USER, {**ASSISTANT, "reasoning_content": "<|im_end|>"}], "turn 1 (assistant) holds a control token"),
        (
            [USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": {"a": "<|im_end|>"}}]}],
            "turn 1 (assistant) h",
        ),
        (
            [USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "turn 1 (assistant) calls a tool with",
        ),
        ([USER, {"role": "assistant"}], "turn 1 (assistant) has no text in `content`"),
        ([USER, {"role": "assistant", "content": " "}], "turn 1 (assistant) has no content"),
        ([USER], "no assistant turn"),
        ([USER, {**ASSISTANT, "trained": False}], "no assistant turn"),
        ([USER, ASSISTANT, {**USER, "mode": "think"}], "the last turn isn't the assistant's"),
        ([], "no messages"),
    ],
)
def test_misshapen_conversation_is_named(messages, problem):
    samples, problems = CASCADE1.samples({"messages": messages})
    assert samples == []
    assert any(p.startswith(problem) for p in problems), problems


def test_tools_that_are_no_specifications_are_named():
    row = {"messages": [USER, ASSISTANT]}
    assert CASCADE2.samples({**row, "tools": "[{"})[1][0].startswith("`tools` is broken JSON")
    assert CASCADE2.samples({**row, "tools": [{"description": "x"}]})[1] == ["tool 0 has no name"]
    same = [CASCADE2.samples({**row, "tools": t})[0] for t in ('[{"name": "f"}]', [{"function": {"name": "f"}}])]
    assert same[0] == same[1]


def test_prompt_must_say_whether_its_reply_thinks(tokenizer):
    with pytest.raises(DataError, match="leaves open whether the reply thinks"):
        encode.encode_prompt(tokenizer, [USER], None)
    with pytest.raises(DataError, match="must end with a user turn"):
        encode.encode_prompt(tokenizer, [USER, ASSISTANT], "think")


def test_prompt_inside_a_tool_episode_goes_on_in_its_mode():
    call = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [{"name": "f", "arguments": {}}],
    }
    messages = [USER, call, {"role": "tool", "content": "3"}]
    assert text_of(CASCADE1.render(messages, "think")).endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert text_of(CASCADE2.render(messages, "think")).endswith("<|im_start|>assistant\n<think>\n")
    assert text_of(CASCADE2.render(messages, "no_think")).endswith("<|im_start|>assistant\n<think></think>")
    with pytest.raises(DataError, match="asks for no_think and is answered with think"):
        CASCADE1.render(messages, "no_think")


def test_response_text_drops_only_the_final_end_token(tokenizer):
    prompt = encode.encode_prompt(tokenizer, [USER], "think")
    ids = [*tokenizer.encode("<think>\na<|im_start|>b"), tokenizer.end_id]
    assert encode.response_text(tokenizer, ids, prompt) == "<think>\na<|im_start|>b"
    assert encode.response_text(tokenizer, ids[:-1], prompt) == "<think>\na<|im_start|>b"


def test_thought_that_the_prompt_opened_and_the_limit_cut_off_is_no_answer(tokenizer, tmp_path):
    from nemo_cascade.rewards.response import split_response

    prefilled = encode.load_tokenizer(install(Path(tokenizer.folder), "cascade2", tmp_path))
    cut_off = prefilled.encode("so it is \\boxed{4}")
    for mode, answer in (("think", None), ("no_think", "so it is \\boxed{4}")):
        prompt = encode.encode_prompt(prefilled, [USER], mode)[-encode.OPENING_TOKENS :]
        assert split_response(encode.response_text(prefilled, cut_off, prompt)).answer == answer


def test_installed_template_is_found_by_whoever_loads_the_folder(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    own = Path(tokenizer.folder)
    assert install(own, "cascade1", tmp_path) == own, "it has that template already"
    folder = install(own, "nano3", tmp_path)
    assert install(own, "nano3", tmp_path) == folder
    assert encode.load_tokenizer(folder).template is NAMED["nano3"]
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded.apply_chat_template([USER], add_generation_prompt=True, enable_thinking=True, return_dict=False)
    assert ids == encode.encode_prompt(encode.load_tokenizer(folder), [USER], "think").tolist()
    assert np.array_equal(encode.load_tokenizer(folder).encode("x y"), tokenizer.encode("x y"))
    with pytest.raises(TemplateError, match="no such chat template"):
        install(own, "cascade3", tmp_path)


def test_tokenizer_without_control_tokens_is_refused_naming_all(tmp_path):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TemplateError, match="the tokenizer has no chat template"):
        encode.load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CASCADE1.jinja)
    with pytest.raises(TemplateError, match=r"<\|im_start\|>, <\|im_end\|>"):
        encode.load_tokenizer(tmp_path)


def test_tokenizer_that_adds_a_space_is_refused(tokenizer, tmp_path):
    settings = json.loads(Path(tokenizer.folder, "tokenizer.json").read_text(encoding="utf-8"))
    settings["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    (tmp_path / "chat_template.jinja").write_text(CASCADE1.jinja)
    with pytest.raises(DataError, match="doesn't give back the text"):
        encode.load_tokenizer(tmp_path)
