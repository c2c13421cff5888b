"""Evaluation prompts and duplicates that hide: found however they are written, and nothing else."""

import json

import pytest

from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.config.stages.sft_data import DecontaminateConfig, DedupConfig
from nemo_cascade.data.hygiene.exclusions import PromptRows, Search, find_prompts
from tests.cases.conftest import write
from tests.unit.data.conftest import conversation

ROWS = [conversation(f"{i}+1", str(i + 1)) for i in range(5)]


LONG = "A farmer sows wheat on two of his three fields, each row of seeds taking him a quarter of an hour; how long?"
RUSSIAN = "Сколько будет, если к двум яблокам на столе у бабушки прибавить ещё три яблока из корзины деда?"
THAI = "ถ้ามีแอปเปิลสองผลและซื้อเพิ่มอีกสามผลจะมีแอปเปิลทั้งหมดกี่ผล"
SYMBOLS = "■□■□ + ◆ = ?"


def asked(*questions, answer="so"):
    return {"messages": [m for q in questions for m in conversation(q, answer)["messages"]]}


def call_with(text):
    turns = asked("look")["messages"]
    turns[1] = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"question": text}}]}
    return {"messages": [*turns, {"role": "tool", "content": "r"}, {"role": "assistant", "content": "a"}]}


@pytest.mark.parametrize(
    ("evaluation", "row", "found"),
    [
        ([LONG] * 9, asked(LONG), True),
        ([LONG] * 64, asked(LONG.upper()), True),
        ([LONG], asked(LONG.replace("a", "a\u200b")), True),
        ([LONG], asked(LONG.replace("e", "e\u2060")), True),
        ([LONG], asked(LONG.replace("o", "\u200co")), True),
        ([LONG], asked(LONG.replace("t", "t\ufe0f")), True),
        ([LONG], asked("\ufeff" + LONG.replace("w", "w\u00ad")), True),
        ([LONG.replace("s", "\u200ds")], asked(LONG), True),
        ([LONG], asked(f"_{LONG.replace(' ', '_ _')}_"), True),
        ([LONG], asked(f"**{LONG.replace(' ', '** **')}**"), True),
        ([LONG], asked(LONG.replace(" ", "\u00a0\u2009\t\r\n")), True),
        ([LONG], asked("".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in LONG)), True),
        (["What is 2\u00b2?"], asked("What is 2^2?"), True),
        (["What is 2\u00b2?"], asked("What is 22?"), False),
        ([f"{LONG}{flag}" for flag in (" /think", "\n/no_think", "")] * 4, asked(LONG), True),
        (["What is 17*23?"] * 20, asked("What is 17*23?"), True),
        (["What is 17*23?"], asked("Hello", "What is 17*23?"), True),
        (["What is 17*23?"], asked("What is 17*23? /no_think"), True),
        (["What is 17*23?"], asked("Hello", "what is 17 * 23\n/no_think"), True),
        (["What is 17*23? /think"], asked("What is 17*23?"), True),
        (["What is 17*23?"], asked("What is 17*24?"), False),
        ([RUSSIAN], call_with(RUSSIAN), True),
        ([LONG], call_with(f'He said "{LONG}"\nand left.'), True),
        ([RUSSIAN], asked(f"Ответь: {RUSSIAN}"), True),
        ([SYMBOLS], asked(SYMBOLS), True),
        ([SYMBOLS], asked("Hello", SYMBOLS), True),
        ([SYMBOLS], asked("■□■□ + ◇ = ?"), False),
        ([THAI], asked(f"ช่วยตอบ {THAI} ด้วย"), True),
        ([THAI], asked("วันนี้อากาศดีมากและฉันอยากไปเดินเล่นที่สวนสาธารณะกับเพื่อน"), False),
    ],
)  # fmt: skip
def test_evaluation_prompt_is_found_however_it_stands_there(build, tmp_path, evaluation, row, found):
    against = write(tmp_path / "evaluation.jsonl", [{"prompt": text} for text in evaluation])
    rows = write(tmp_path / "rows.jsonl", [*ROWS, row])
    rules = DecontaminateConfig(against=[str(against)])
    stats = build(rows, decontaminate=rules).stats
    assert stats["dropped_contaminated"] == int(found)


@pytest.mark.parametrize(
    "evaluated",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": RUSSIAN}], "grade": 3}], "system": "x"},
        {"messages": [{"role": "user", "content": f"<think>{RUSSIAN}</think>"}]},
        {"question": f"{RUSSIAN} /think", "answer": float("nan")},
        {"prompt": "", "question": RUSSIAN},
        {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": RUSSIAN}], "reward_model": {}},
        {"conversations": [{"from": "human", "value": RUSSIAN}, {"from": "gpt", "value": "x"}]},
        {"instruction": RUSSIAN, "input": ""},
    ],
)
def test_evaluation_set_is_searched_for_whatever_else_it_holds(build, tmp_path, evaluated):
    against = write(tmp_path / "evaluation.jsonl", [evaluated])
    rows = write(tmp_path / "rows.jsonl", [*ROWS, asked(RUSSIAN)])
    assert build(rows, decontaminate=DecontaminateConfig(against=[str(against)])).stats["dropped_contaminated"] == 1


@pytest.mark.parametrize(
    ("prompts", "row", "found"),
    [
        ([LONG] * 9, asked(f"{LONG}\n/think"), True),
        ([f"{LONG} /no_think"] * 9, asked(LONG), True),
        (["What is 17*23?"] * 9, asked("Hello", "What is 17*23? /no_think"), True),
        (["What is 17*23? /think"], asked("Hello", "what is  17*23?"), True),
        ([SYMBOLS], asked("Hello", SYMBOLS), True),
        ([THAI], asked(f"ช่วยตอบ {THAI} ด้วย"), True),
        (["What is 17*23?"], asked("What is 17+23?"), False),
    ],
)
def test_prompt_of_another_set_is_found_however_it_stands_there(tmp_path, prompts, row, found):
    searched = write(tmp_path / "rl.jsonl", [{"messages": [{"role": "user", "content": text}]} for text in prompts])
    rows = write(tmp_path / "rows.jsonl", [*ROWS, row])
    ((overlap,),) = find_prompts([Search((PromptRows(str(searched)),), PromptRows(str(rows)))], HygieneConfig())
    assert bool(overlap.found) == found


def three(second, **said):
    row = asked("q", "r", "s")
    row["messages"][3] |= {"content": second, **said}
    return row


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (conversation("q", "a\nb"), {"messages": [*conversation("q")["messages"][:1],
                                               {"role": "assistant", "content": "b", "reasoning": "a"}]}),
        ({"messages": [{"role": "system", "content": "q"}, *conversation("a", "b")["messages"]]},
         conversation("q a", "b")),
        (asked("q", answer="so q so"), asked("q", "q")),
    ],
)  # fmt: skip
def test_same_words_said_by_others_are_no_exact_duplicate(build, tmp_path, first, second):
    rows = write(tmp_path / "rows.jsonl", [first, second, second])
    assert build(rows, dedup=DedupConfig(method="exact")).stats["dropped_duplicates"] == 1


F, G = [{"name": "f", "description": "x"}], [{"name": "g", "description": "x"}]
SAME_CALL = {"name": "f", "arguments": {"a": 1, "b": "two"}}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({**conversation(), "tools": F}, {**conversation(), "tools": G}, False),
        ({**conversation(), "tools": F}, conversation(), False),
        ({**conversation(), "tools": F}, {**conversation(), "tools": json.dumps(F)}, True),
        (conversation("q", "<think>\nhm\n</think>\n\na"), {"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": "hm"}]}, True),
        (conversation("q", "<think>\nhm\n</think>\n\na"), conversation("q", "a"), False),
        (call_with("one two"), {"messages": [call_with("one two")["messages"][0], {"role": "assistant", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{ "question": "one two" }'}}]},
            *call_with("x")["messages"][2:]]}, True),
        (call_with("one two"), call_with("one 2"), False),
        (conversation("x = 3\u00b2", "9"), conversation("x = 32", "9"), False),
        (conversation("one  two", "a"), conversation("one two\u200b", "A"), True),
        (three("b", trained=False), three("b"), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["exact", "near"])
def test_duplicate_is_what_says_the_same_whatever_its_spelling(build, tmp_path, first, second, same, method):
    stats = build(write(tmp_path / "rows.jsonl", [first, second]), dedup=DedupConfig(method=method)).stats
    assert stats["dropped_duplicates"] == int(same)


def test_long_conversations_with_other_tools_are_not_nearly_the_same(build, tmp_path):
    long = " ".join(f"word{i}" for i in range(200))
    rows = [{**conversation(f"{long} {i}"), "tools": tools} for i, tools in enumerate((F, F, G))]
    stats = build(write(tmp_path / "rows.jsonl", rows), dedup=DedupConfig(method="near")).stats
    assert stats["dropped_duplicates"] == 1
