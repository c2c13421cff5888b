"""Any HF template: masked by what it provably writes, or refused with the reason."""

import itertools
import json
from pathlib import Path

import pytest

from nemo_cascade.data.chat import encode
from nemo_cascade.data.chat.templates import NAMED, JinjaTemplate
from nemo_cascade.errors import TemplateError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.support.slow_chat_writer import random_row

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# A system turn of its own, the end of a text behind each reply, no roles: Mistral's manner.
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Earlier thoughts are dropped: Qwen3's manner.
FORGETS = (
    "{% set last = messages | selectattr('role', 'eq', 'user') | list | last %}{% set ns = namespace(now=false) %}"
    "{% for m in messages %}{% if m is eq(last) %}{% set ns.now = true %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and m['reasoning_content'] is defined and ns.now %}"
    "{{ '<think>\\n' + m['reasoning_content'] + '\\n</think>\\n\\n' }}{% endif %}{{ m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Only the last reply shows that it didn't think: Qwen3's manner as well.
NOTHING = "'<think>\\n</think>\\n'"
LAST_SHOWS = CHATML.replace(
    "m['content'] +", f"({NOTHING} if loop.last and m['role'] == 'assistant' else '') + m['content'] +"
).replace("assistant\\n' }}{% endif", f"assistant\\n' + {NOTHING} }}}}{{% endif")
HEAD, REPLY, END = "{{ '<|im_start|>assistant\\n' }}", "{{ m['content'] }}", "{{ '<|im_end|>' }}"


def marked(head, reply, tail):
    """ChatML that marks a part of the replies as generated."""
    return CHATML.replace(
        "{{ '<|im_start|>' + m",
        f"{{% if m['role'] == 'assistant' %}}{head}{{% generation %}}{reply}{{% endgeneration %}}{tail}{{{{ '\\n' }}}}"
        "{% else %}{{ '<|im_start|>' + m",
        1,
    ).replace("'<|im_end|>\\n' }}", "'<|im_end|>\\n' }}{% endif %}")


MARKED = marked(HEAD, REPLY + END, "")
ROW = {
    "messages": [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "3+3"},
        {"role": "assistant", "content": "6"},
    ]
}


@pytest.fixture
def load(tmp_path):
    train_nano_tokenizer(["user assistant: It is four. That is six."] * 5, tmp_path)

    def load(text, **named):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
        (tmp_path / "chat_template.jinja").write_text(text)
        return encode.load_tokenizer(tmp_path)

    return load


def trained(tokenizer, row):
    return [[s.text for s in sample if s.trained] for sample in tokenizer.template.samples(row)[0]]


def merged(segments):
    """Text and mark, whatever stretches the text comes in."""
    return [(mark, "".join(s.text for s in run)) for mark, run in itertools.groupby(segments, lambda s: s.trained)]


@pytest.mark.parametrize("text", [CHATML, MARKED])
def test_chatml_as_a_foreign_template_has_the_mask_of_our_own(load, text):
    tokenizer = load(text)
    assert isinstance(tokenizer.template, JinjaTemplate)
    for seed in range(60):
        row = random_row(seed)
        if "tools" in row or any("<think>" in m["content"] or "reasoning_content" in m for m in row["messages"]):
            continue
        expected, problems = NAMED["chatml"].samples(row)
        found, found_problems = tokenizer.template.samples(row)
        assert problems == found_problems
        for ours, theirs in zip(expected, found, strict=True):
            ids, mask = (x.tolist() for x in encode.encode_segments(tokenizer, [ours])[0])
            assert (ids, mask) == tuple(x.tolist() for x in encode.encode_segments(tokenizer, [theirs])[0])


def test_prompt_is_a_prefix_of_the_sample(load):
    for text, named in ((CHATML, {}), (BRACKETS, {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"})):
        tokenizer = load(text, **named)
        whole = encode.encode_conversation(tokenizer, ROW["messages"])[0].tolist()
        for end in (1, 3):
            prompt = encode.encode_prompt(tokenizer, ROW["messages"][:end], "no_think").tolist()
            assert prompt == whole[: len(prompt)]


def test_turn_end_is_found_and_system_turns_are_refused_one_by_one(load):
    tokenizer = load(BRACKETS, bos_token="<|endoftext|>", eos_token={"content": "<|im_end|>"})
    assert tokenizer.template.turn_end == "<|im_end|>"
    assert trained(tokenizer, ROW) == [[" 4<|im_end|>", " 6<|im_end|>"]]
    with_system = {"messages": [{"role": "system", "content": "x"}, *ROW["messages"]]}
    assert "only user and assistant" in tokenizer.template.samples(with_system)[1][0]


def test_template_that_forgets_thoughts_is_unrolled(load):
    tokenizer = load(FORGETS)
    messages = [{**m, "reasoning_content": f"t{i}"} if i % 2 else m for i, m in enumerate(ROW["messages"])]
    assert trained(tokenizer, {"messages": messages}) == [
        ["<think>\nt1\n</think>\n\n4<|im_end|>"],
        ["<think>\nt3\n</think>\n\n6<|im_end|>"],
    ]


def test_template_that_writes_earlier_replies_in_another_way_is_unrolled(load):
    tokenizer = load(LAST_SHOWS)
    assert trained(tokenizer, ROW) == [["4<|im_end|>"], ["6<|im_end|>"]]
    samples = ["".join(s.text for s in sample) for sample in tokenizer.template.samples(ROW)[0]]
    assert [text.count("<think>") for text in samples] == [1, 1]
    for sample, end in zip(samples, (1, 3), strict=True):
        prompt = tokenizer.decode(encode.encode_prompt(tokenizer, ROW["messages"][:end], "no_think"))
        assert sample.startswith(prompt)


def test_templates_that_a_package_ships_are_proven_or_refused(load):
    import vllm.transformers_utils.chat_templates as shipped

    refused = {}
    for file in sorted(Path(shipped.__file__).parent.glob("*.jinja")):
        try:
            assert load(file.read_text()).template.turn_end == "<|im_end|>"
        except TemplateError as error:
            refused[file.stem] = str(error)
    # Its own ChatML leaves the last reply open: from it no model would learn to stop.
    assert "ended by no special token" in refused["template_chatml"]
    assert "ended by no special token" in refused["template_basic"]
    assert "template_minicpmv45" not in refused, "Qwen3's: earlier replies change, so it is unrolled"
    assert all("can't be masked" in reason for reason in refused.values())


def test_template_without_reasoning_field_is_given_the_thought_in_the_text(load):
    messages = [ROW["messages"][0], {**ROW["messages"][1], "reasoning_content": "hm"}]
    assert trained(load(CHATML), {"messages": messages}) == [["<think>\nhm\n</think>\n4<|im_end|>"]]


def test_tools_are_taken_only_by_a_template_that_writes_them(load):
    row = {**ROW, "tools": [{"name": "add", "description": "adds"}]}
    assert load(CHATML).template.samples(row)[1] == ["the chat template doesn't write tools, calls and results"]
    foreign = NAMED["cascade2"].jinja + "{# not ours to the letter #}"
    tokenizer = load(foreign)
    assert isinstance(tokenizer.template, JinjaTemplate)
    for seed in range(40):
        row = random_row(seed, explicit=True)
        expected, problems = NAMED["cascade2"].samples(row)
        if not problems:
            found = tokenizer.template.samples(row)[0]
            assert [merged(s) for s in found] == [merged(s) for s in expected], row


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CHATML.replace("'<|im_end|>\\n'", "'\\n'"), "ended by no special token"),
        (CHATML.replace("assistant\\n' }}{% endif", "bot\\n' }}{% endif"), "doesn't begin where its prompt ends"),
        (CHATML.replace("assistant\\n' }}{% endif", "assistant\\nIt' }}{% endif"), "isn't written as it is given"),
        (CHATML.replace("m['content']", "m['content'] | upper"), "isn't written as it is given"),
        (CHATML.replace("'\\n' + m", "': ' + m").replace("assistant\\n", "assistant: "), "meet inside a token"),
        ("{{ messages[0].content", "fails on a question and an answer"),
        (marked(HEAD, REPLY, END), "isn't ended by <|im_end|>"),
        (marked("", HEAD + REPLY + END, ""), "marks '<|im_start|>assistant"),
        (marked(HEAD + REPLY, END, ""), "isn't written as it is given"),
    ],
)
def test_template_that_cannot_be_masked_is_refused(load, text, reason):
    with pytest.raises(TemplateError) as raised:
        load(text)
    assert "can't be masked" in str(raised.value)
    assert reason in str(raised.value)
    assert "mend: model.chat_template=cascade1" in str(raised.value)
