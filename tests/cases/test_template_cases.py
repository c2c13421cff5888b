"""Kinds of chat template that were masked wrongly, or refused though right: each by a small template of its own."""

import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from nemo_cascade.data.chat import encode
from nemo_cascade.data.chat.templates import NAMED, JinjaTemplate
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.data.chat.templates.render import Renderer
from nemo_cascade.errors import TemplateError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.support.template_conversations import CONVERSATIONS, TOOLS, call, differences, reply, result, user
from tests.support.template_writer import DAY, PrefixWriter

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[Q]", "[/Q]", "<|call|>", "<|done|>")
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
TALK = f"{{% for m in messages %}}{TURN}{{% endfor %}}"
THINKING = (
    "{{ '<|im_start|>assistant\\n' }}{% if m.reasoning_content %}"
    "{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}"
)
DECLARED = "{% for t in tools or [] %}{{ '<|im_start|>tool\\n' + (t | tojson) + '<|im_end|>\\n' }}{% endfor %}"


def by_role(assistant, tool=TURN, other=TURN):
    return (
        DECLARED + "{% for m in messages %}{% if m.role == 'assistant' %}" + assistant
        + "{% elif m.role == 'tool' %}" + tool
        + "{% else %}" + other + "{% endif %}{% endfor %}"
    )  # fmt: skip


def calls(writing):
    return (
        "{{ '<|im_start|>assistant\\n' + m.content }}{% for c in m.tool_calls or [] %}{{ "
        + writing
        + " }}{% endfor %}{{ '<|im_end|>\\n' }}"
    )


CALL = "'<tool_call>' + (c.function | tojson) + '</tool_call>'"
LAST_USER = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
)
KINDS = {
    "call ids": by_role(
        calls("'<tool_call>' + c.id + ':' + (c.function | tojson) + '</tool_call>'"),
        "{{ '<|im_start|>tool\\n(' + m.name + ', ' + m.tool_call_id + ') ' + m.content + '<|im_end|>\\n' }}",
    )
    + OPEN,
    "ids of nine letters": by_role(
        "{% for c in m.tool_calls or [] if c.id is undefined or c.id | length != 9 %}{{ raise_exception('nine') }}"
        "{% endfor %}" + calls(CALL + " + c.id")
    )
    + OPEN,
    "text behind the end": TALK.replace("+ '<|im_end|>\\n'", "+ '<|im_end|>\\n'")
    + OPEN[:-11]
    + "{% else %}{{ '<|endoftext|>' }}{% endif %}",
    "header behind the end": TALK + "{{ '<|im_start|>assistant\\n' }}",
    "last reply ends otherwise": by_role(
        "{{ '<|im_start|>assistant\\n' + m.content + ('<|done|>' if loop.last else '<|im_end|>\\n') }}"
    )
    + OPEN,
    "calls end otherwise": by_role(
        calls(CALL).replace("'<|im_end|>\\n'", "('<|call|>' if m.tool_calls else '<|im_end|>\\n')")
    )
    + OPEN,
    "always thinks": by_role(THINKING)
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
    "system in the last question": (
        "{% set before = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}"
        + LAST_USER
        + "{% for m in messages %}{% if m.role == 'user' %}{{ '[Q]' + "
        "(before if loop.index0 == ns.last else '') + m.content + '[/Q]' }}{% elif m.role == 'assistant' %}"
        "{{ ' ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    ),
    "hides the final thought": by_role(
        "{{ '<|im_start|>assistant\\n<think>' + (m.reasoning_content or '' if m.tool_calls else '') }}"
        "{{ '</think>' + m.content }}"
        "{% for c in m.tool_calls or [] %}{{ " + CALL + " }}{% endfor %}{{ '<|im_end|>\\n' }}"
    )
    + OPEN,
    "shows that the last step didn't think": LAST_USER
    + by_role(
        "{{ '<|im_start|>assistant\\n' }}{% if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
        "{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n' }}{% endif %}"
        + calls(CALL).replace("'<|im_start|>assistant\\n' + ", "")
    )
    + OPEN[:-11]
    + "{% if not enable_thinking %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}",
    "contents of parts": TALK.replace("m.content", "m.content[0].text") + OPEN,
    "arguments as text": by_role(calls("'<tool_call>' + c.function.name + c.function.arguments + '</tool_call>'"))
    + OPEN,
    "needs tools": "{{ tools | length }}" + by_role(calls(CALL)) + OPEN,
    "the date": "{{ '<|im_start|>system\\nToday: ' + strftime_now('%d %b %Y') + '<|im_end|>\\n' }}" + TALK + OPEN,
    "marks the opened thought": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}"
        "{{ '<think></think>' + m.content + '<|im_end|>\\n' }}{% endgeneration %}{% else %}"
        + TURN
        + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think></think>' }}{% endif %}"
    ),
}
# The conversations that each kind takes; every other is refused, and says why.
PLAIN = {"one", "three", "system", "system three", "empty system", "unicode", "layout", "untrained"}
THINKS = {"thought", "thoughts", "system thought", "mixed"}
CALLS = {"tools unused", "tools", "tools system", "tools go on"}
THINKING_CALLS = {"tools thoughts", "tools thoughts go on"}
EVERYTHING = PLAIN | THINKS | CALLS | THINKING_CALLS
TAKEN = {
    "call ids": EVERYTHING,
    "ids of nine letters": EVERYTHING,
    "text behind the end": PLAIN | THINKS,
    "header behind the end": PLAIN | THINKS,
    "last reply ends otherwise": PLAIN | THINKS | {"tools unused"},
    "calls end otherwise": EVERYTHING,
    "always thinks": THINKS - {"mixed"},
    "system in the last question": PLAIN | THINKS,
    "hides the final thought": PLAIN | CALLS,
    "shows that the last step didn't think": EVERYTHING,
    "contents of parts": PLAIN | THINKS,
    "arguments as text": EVERYTHING,
    "needs tools": CALLS | THINKING_CALLS,
    "the date": PLAIN | THINKS,
    "marks the opened thought": PLAIN,
}


@pytest.fixture
def load(tmp_path):
    train_nano_tokenizer(["user assistant: It is four. That is six."] * 5, tmp_path)
    file = tmp_path / "tokenizer.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    control = sorted({token for template in NAMED.values() for token in template.control} - {*SPECIAL})
    for token in [*SPECIAL[3:], *control]:
        number = max(t["id"] for t in facts["added_tokens"]) + 1
        facts["added_tokens"].append({**facts["added_tokens"][0], "id": number, "content": token})
    file.write_text(json.dumps(facts), encoding="utf-8")

    def load(text, **settings):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "chat_template.jinja").write_bytes(text if isinstance(text, bytes) else text.encode())
        return encode.load_tokenizer(tmp_path)

    return load


def trained(tokenizer, row):
    samples, problems = tokenizer.template.samples(row)
    assert problems == []
    return [[s.text for s in sample if s.trained] for sample in samples]


def hf_text(text, messages, tools=None, **settings):
    return render_jinja_template([messages], tools=tools, chat_template=text, **settings)[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_kind_are_an_independent_writers(kind, load):
    tokenizer = load(KINDS[kind], chat_template_date=DAY)
    writer, taken = PrefixWriter(KINDS[kind], SPECIAL, {}), set()
    for name, row in CONVERSATIONS.items():
        samples, problems = tokenizer.template.samples(row)
        assert bool(samples) != bool(problems)
        if samples:
            taken.add(name)
            assert differences(tokenizer, writer, row, samples) == [], name
    assert taken == TAKEN[kind]


ROME = [user("Rome?"), call("call00001", "Rome"), result("call00001", "sunny"), reply("It is sunny.")]


def without(messages, *labels):
    """Leave out labels of calls and results."""
    kept = [{k: v for k, v in m.items() if k not in labels} for m in messages]
    for message in kept:
        if "id" in labels and "tool_calls" in message:
            message["tool_calls"] = [{k: v for k, v in c.items() if k != "id"} for c in message["tool_calls"]]
    return kept


def test_labels_of_calls_and_results_are_written_as_hf_writes_them(load):
    tokenizer = load(KINDS["call ids"])
    samples, problems = tokenizer.template.samples({"messages": ROME, "tools": TOOLS})
    assert problems == []
    text = "".join(s.text for s in samples[0])
    assert hf_text(KINDS["call ids"], ROME, TOOLS).startswith(text)
    assert "call00001:" in text
    assert "(get_weather, call00001) sunny" in text


@pytest.mark.parametrize("label", ["id", "name", "tool_call_id"])
def test_rows_without_a_label_that_the_template_writes_are_refused(label, load):
    tokenizer = load(KINDS["call ids"])
    problems = tokenizer.template.samples({"messages": without(ROME, label), "tools": TOOLS})[1]
    assert problems == [f"the chat template writes what calls and results don't have: {label}"]
    load(KINDS["arguments as text"])
    unlabelled = {"messages": without(ROME, "id", "name", "tool_call_id"), "tools": TOOLS}
    assert trained(load(KINDS["arguments as text"]), unlabelled) == [
        ['<tool_call>get_weather{"city": "Rome"}</tool_call><|im_end|>', "It is sunny.<|im_end|>"]
    ]


def test_ids_that_a_template_demands_are_those_of_the_row(load):
    tokenizer = load(KINDS["ids of nine letters"])
    assert tokenizer.template.samples({"messages": ROME, "tools": TOOLS})[1] == []
    short = [ROME[0], call("c1", "Rome"), result("c1", "sunny"), ROME[3]]
    assert tokenizer.template.samples({"messages": short, "tools": TOOLS})[1] == ["the chat template refuses it: nine"]


def test_arguments_given_as_text_are_kept_to_the_letter(load):
    spaced = json.loads(json.dumps(ROME))
    spaced[1]["tool_calls"][0]["function"]["arguments"] = '{"city":  "Rome"}'
    found = trained(load(KINDS["arguments as text"]), {"messages": spaced, "tools": TOOLS})
    assert found[0][0] == '<tool_call>get_weather{"city":  "Rome"}</tool_call><|im_end|>'


def test_thought_that_a_template_never_writes_is_refused_not_put_into_the_answer(load):
    tokenizer = load(KINDS["hides the final thought"])
    row = {"messages": [user("One?"), reply("First.", "alpha")]}
    assert tokenizer.template.samples(row)[1] == ["turn 1 (assistant) has a thought that isn't written"]
    problems = load(KINDS["marks the opened thought"]).template.samples(row)[1]
    assert problems == ["turn 1 (assistant) thinks, though its prompt closes the think block"]
    assert trained(load(TALK + OPEN), row) == [["<think>\nalpha\n</think>\nFirst.<|im_end|>"]]


def test_template_that_writes_the_date_is_refused_until_one_is_pinned(load, tmp_path):
    with pytest.raises(TemplateError, match=r"today's date.*mend: model.chat_template_date"):
        load(KINDS["the date"])
    folder, beside = tmp_path, tmp_path / "beside"
    keys = set()
    for day in ("2026-11-28", "2026-11-29"):
        dated = install(folder, "own", beside, day)
        assert install(folder, "own", beside, day) == dated
        assert install(dated, "own", beside, day) == dated, "it has that date already"
        template = encode.load_tokenizer(dated).template
        text = "".join(s.text for s in template.samples({"messages": ROME[::3]})[0][0])
        assert f"Today: {day[-2:]} Nov 2026" in text
        keys.add(template.key)
    assert len(keys) == 2
    with pytest.raises(TemplateError, match="no date"):
        install(folder, "own", beside, "yesterday")


def test_template_that_throws_dice_is_refused(load):
    for dice in ("{{ ['a', 'b'] | random }}", "{{ lipsum() }}"):
        with pytest.raises(TemplateError, match="something else each time"):
            load(dice + TALK + OPEN)


@pytest.mark.parametrize("kind", ["text behind the end", "header behind the end"])
def test_what_stands_behind_the_end_is_not_trained(kind, load):
    tokenizer = load(KINDS[kind])
    assert tokenizer.template.turn_end == "<|im_end|>"
    assert trained(tokenizer, CONVERSATIONS["three"]) == [[f"{n}.<|im_end|>" for n in ("First", "Second", "Third")]]


def test_last_reply_that_ends_otherwise_makes_one_sample_per_users_turn(load):
    tokenizer = load(KINDS["last reply ends otherwise"])
    assert trained(tokenizer, CONVERSATIONS["three"]) == [["First.<|done|>"], ["Second.<|done|>"], ["Third.<|done|>"]]


def test_calls_may_end_by_a_token_of_their_own(load):
    tokenizer = load(KINDS["calls end otherwise"])
    assert tokenizer.template.ends == ("<|im_end|>", "<|call|>")
    text = trained(tokenizer, CONVERSATIONS["tools"])[0][0]
    assert text.endswith("</tool_call><|call|>")
    prompt = encode.encode_prompt(tokenizer, [user("Rome?")], "no_think")
    assert encode.response_text(tokenizer, tokenizer.encode(text), prompt) == text.removesuffix("<|call|>")


def test_template_that_always_thinks_takes_what_thinks(load):
    tokenizer = load(KINDS["always thinks"])
    assert trained(tokenizer, CONVERSATIONS["thought"]) == [["hm\n\nso\n</think>\nFirst.<|im_end|>"]]
    (problem,) = tokenizer.template.samples(CONVERSATIONS["one"])[1]
    assert problem.startswith("turn 1 (assistant) doesn't begin where its prompt ends: ")
    assert problem.endswith("<think>\\n'")
    row = {"messages": [user("One?")]}
    assert tokenizer.template.prompt(row, "no_think")[1] == [
        "the chat template opens a think block where the reply shouldn't think"
    ]
    ids = encode.encode_segments(tokenizer, [tokenizer.template.prompt(row, "think")[0]])[0][0]
    assert encode.response_text(tokenizer, tokenizer.encode("hm"), ids) == "<think>\nhm"


def test_system_text_in_the_last_question_makes_one_sample_per_users_turn(load):
    tokenizer = load(KINDS["system in the last question"])
    assert len(trained(tokenizer, CONVERSATIONS["three"])) == 1
    samples = [
        "".join(s.text for s in sample) for sample in tokenizer.template.samples(CONVERSATIONS["system three"])[0]
    ]
    assert [text.index("Be brief.") for text in samples] == [text.rindex("[Q]") + 3 for text in samples]


def test_tool_steps_without_thoughts_are_trained_one_by_one_where_the_last_shows_that(load):
    tokenizer = load(KINDS["shows that the last step didn't think"])
    found = trained(tokenizer, CONVERSATIONS["tools"])
    assert [[text[-22:] for text in sample] for sample in found] == [
        ["}}</tool_call><|im_end|>"[-22:]],
        ["It is sunny.<|im_end|>"],
    ]
    assert len(trained(tokenizer, CONVERSATIONS["tools thoughts"])) == 1


@pytest.mark.parametrize("form", NAMED)
def test_copy_of_a_built_in_template_is_it(form, load, tmp_path):
    copies = (NAMED[form].jinja + "\n", NAMED[form].jinja.replace("\n", "\r\n"))
    for number, text in enumerate(copies):
        assert load(text).template is NAMED[form]
        file = tmp_path / f"copy{number}.jinja"
        file.write_bytes(text.encode())
        assert encode.load_tokenizer(install(tmp_path, str(file), tmp_path / "beside")).template is NAMED[form]


def test_foreign_copy_of_a_template_with_flags_writes_the_right_one(load):
    tokenizer = load(NAMED["cascade1"].jinja + "{# changed #}")
    assert isinstance(tokenizer.template, JinjaTemplate)
    for name in ("one", "three", "thoughts", "mixed", "tools", "tools thoughts"):
        ours = NAMED["cascade1"].samples(CONVERSATIONS[name])[0]
        theirs = tokenizer.template.samples(CONVERSATIONS[name])[0]
        assert [["".join(s.text for s in sample)] for sample in theirs] == [["".join(s.text for s in x)] for x in ours]
    for mode in ("think", "no_think"):
        row = {"messages": CONVERSATIONS["three"]["messages"][:3]}
        ours, theirs = (t.prompt(row, mode)[0] for t in (NAMED["cascade1"], tokenizer.template))
        assert "".join(s.text for s in ours) == "".join(s.text for s in theirs)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ((TALK + OPEN).encode("utf-16"), "not in UTF-8"),
        (("{# é #}" + TALK + OPEN).encode("latin-1"), "not in UTF-8"),
        (b"\xef\xbb\xbf" + (TALK + OPEN).encode(), "byte order mark"),
        ("{% for i in range(10**12) %}{% endfor %}" + TALK + OPEN, "can't be masked"),
        ("{{ 1 // 0 }}" + TALK + OPEN, "can't be masked"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}" + TALK + OPEN, "can't be masked"),
        ("{{ 'x' * 10**15 }}" + TALK + OPEN, "can't be masked"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30 + TALK + OPEN, "can't be masked"),
    ],
)
def test_template_file_that_cannot_be_read_or_run_is_told_by_name(text, reason, load, tmp_path):
    with pytest.raises(TemplateError) as raised:
        load(text)
    assert reason in str(raised.value)
    file = tmp_path / "wanted.jinja"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    if isinstance(text, bytes):
        with pytest.raises(TemplateError, match=r"wanted\.jinja"):
            install(Path(tmp_path), str(file), tmp_path / "beside")


def test_settings_that_are_no_json_are_told_by_name(tmp_path, load):
    load(TALK + OPEN)
    for raw in (b"{", b"[]", "{}".encode("utf-16")):
        (tmp_path / "tokenizer_config.json").write_bytes(raw)
        with pytest.raises(TemplateError, match=r"tokenizer_config\.json"):
            encode.load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TALK + OPEN + "\ud800"}))
    with pytest.raises(TemplateError, match="lone surrogate"):
        encode.load_tokenizer(tmp_path)


@pytest.fixture
def rendered(monkeypatch):
    """Count what is rendered."""
    written = []
    render = Renderer._render

    def counted(self, turns, *args, **settings):
        written.append(len(turns))
        return render(self, turns, *args, **settings)

    monkeypatch.setattr(Renderer, "_render", counted)
    return written


def test_many_turns_whose_thoughts_are_forgotten_are_rendered_a_few_times_each(load, rendered):
    forgets = by_role(THINKING.replace("if m.reasoning_content", "if m.reasoning_content and loop.index0 > ns.last"))
    tokenizer = load(LAST_USER + forgets + OPEN)
    for turns in (10, 30):
        messages = [m for i in range(turns) for m in (user(f"{i}?"), reply(f"{i}.", f"thought {i}"))]
        rendered.clear()
        assert len(trained(tokenizer, {"messages": messages})) == turns
        assert len(rendered) <= 3 * turns


def episode(steps, text=""):
    turns = [user("Go.")]
    for i in range(steps):
        turns += [call(f"call{i:05}", "Rome", text), result(f"call{i:05}", "sunny")]
    return [*turns, reply("Done.")]


def test_many_steps_are_rendered_as_often_as_a_few_and_masked_as_well(load, rendered):
    tokenizer = load(KINDS["call ids"])
    counts = []
    for steps in (20, 40):
        rendered.clear()
        assert len(trained(tokenizer, {"messages": episode(steps), "tools": TOOLS})[0]) == steps + 1
        counts.append(len(rendered))
    assert max(counts) <= 32
    row = {"messages": episode(20), "tools": TOOLS}
    writer = PrefixWriter(KINDS["call ids"], SPECIAL, {})
    assert differences(tokenizer, writer, row, tokenizer.template.samples(row)[0]) == []


def test_step_in_the_middle_that_is_written_otherwise_is_not_trained(load):
    text = KINDS["call ids"].replace("+ m.content }}", "+ (m.content if m.content != 'psst' else '*') }}")
    tokenizer, messages = load(text), episode(20, "look")
    assert tokenizer.template.samples({"messages": messages, "tools": TOOLS})[1] == []
    messages[15] = {**messages[15], "content": "psst"}
    assert "turn 15 (assistant) isn't written as it is given" in tokenizer.template.samples(
        {"messages": messages, "tools": TOOLS}
    )[1][0]  # fmt: skip


def test_many_equal_turns_are_told_apart(load):
    tokenizer = load(KINDS["shows that the last step didn't think"])
    messages = [m for _ in range(20) for m in (user("Again?"), reply("Again."))]
    assert trained(tokenizer, {"messages": messages}) == [["Again.<|im_end|>"]] * 20


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Sure. <think>hm</think> a", "has a think block that isn't at its beginning"),
        ("thought</think>answer", "closes a think block that it never opened"),
        ("<think>\nhm\n</think>\na <think>more</think> b", "has a think block that isn't at its beginning"),
        ("<think>\nhm\n</think>\na</think>", "has a think block that isn't at its beginning"),
    ],
)
@pytest.mark.parametrize("form", NAMED)
def test_think_block_out_of_place_is_refused(form, answer, reason):
    samples, problems = NAMED[form].samples({"messages": [user("q"), reply(answer)]})
    assert samples == []
    assert problems == [f"turn 1 (assistant) {reason}"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("q\n/no_think", "q /no_think"),
        ("q /no_think\n", "q /no_think"),
        ("q\t/no_think", "q /no_think"),
        ("q /no_think", "q /no_think"),
        ("what is /think for?", "what is /think for? /no_think"),
        ("a path/no_think", "a path/no_think /no_think"),
    ],
)
def test_mode_flag_is_written_once(text, written):
    row = {"messages": [user(text), reply("a")]}
    assert f"user\n{written}<|im_end|>" in NAMED["cascade1"].samples(row)[0][0][0].text
    prompt = {"messages": [user(text)]}
    assert f"user\n{written}<|im_end|>" in NAMED["cascade1"].prompt(prompt, "no_think")[0][0].text


@pytest.mark.parametrize("text", ["/no_think\nq", "q /think /no_think", "q /think\n/no_think", "/no_think"])
def test_mode_flag_elsewhere_or_twice_is_refused(text):
    samples, problems = NAMED["cascade1"].samples({"messages": [user(text), reply("a")]})
    assert samples == []
    assert "mode flag" in problems[0]


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_system_turn_is_none(form, text):
    system = {"role": "system", "content": text}
    row = {"messages": [user("q"), reply("a")]}
    assert NAMED[form].samples({"messages": [system, *row["messages"]]}) == NAMED[form].samples(row)
    asked = [system, user("q")]
    assert NAMED[form].prompt({"messages": asked}, "no_think") == NAMED[form].prompt(
        {"messages": asked[1:]}, "no_think"
    )
