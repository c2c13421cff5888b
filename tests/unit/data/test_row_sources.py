"""Every kind of source gives the same rows; the released sets' columns become ours; what can't be read is told."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_cascade.config.data import DataFileConfig
from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.pairs import build_pair_stores
from nemo_cascade.data.prompts.agent_rows import AGENT_TOOLS, agent_messages
from nemo_cascade.data.prompts.prompt_sets import PromptSet
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.schemas import SCHEMAS, schema_of
from nemo_cascade.data.rows.sources import decode_row, read_raw
from nemo_cascade.data.rows.tables import without_nulls
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.errors import DataError
from tests.unit.data.conftest import conversation, sft_stage

CALL = {"name": "add", "arguments": {"a": 1}}
ROWS = [
    {"messages": [{"role": "user", "content": "naïve 1\n"}, {"role": "assistant", "content": "one"}], "source": "x"},
    {
        "messages": [
            {"role": "user", "content": "2"},
            {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "three"},
        ],
        "source": "y",
    },
] * 300


def rows_of(path):
    return [decode_row(raw)[0] for raw in read_raw(path)]


@pytest.fixture(params=["jsonl", "parquet", "arrow", "save_to_disk", "hub"])
def stored(request, tmp_path, write_jsonl):
    """The rows, in a source of some kind; arrow fills what a turn lacks with nulls."""
    folder = tmp_path / "set"
    table = pa.Table.from_pylist(ROWS)
    if request.param == "jsonl":
        return write_jsonl(ROWS)
    if request.param == "save_to_disk":
        import datasets

        datasets.Dataset.from_list(ROWS).save_to_disk(folder)
        return str(folder)
    folder.mkdir()
    if request.param == "arrow":
        with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        return str(folder)
    pq.write_table(table, folder / "rows.parquet")
    if request.param == "hub":
        return local_path(DataFileConfig(path=f"hf://{folder}"), tmp_path / "data")
    return str(folder)


def test_every_kind_of_source_gives_the_same_rows(stored):
    assert rows_of(stored) == ROWS


def test_set_of_the_hub_is_fetched_once_in_files_of_a_bounded_size(tmp_path, write_jsonl, monkeypatch):
    monkeypatch.setattr("nemo_cascade.data.rows.hub._FILE_BYTES", 20_000)
    write_jsonl(ROWS)
    source = DataFileConfig(path=f"hf://{tmp_path}")
    found = local_path(source, tmp_path / "data")
    assert len(list((tmp_path / "data").rglob("part-*.jsonl"))) > 3
    assert rows_of(found) == ROWS
    (tmp_path / "rows.jsonl").unlink()
    assert local_path(source, tmp_path / "data") == found
    with pytest.raises(DataError, match=r"a set of the hub can't be read: .*mend: check name") as raised:
        local_path(DataFileConfig(path="hf://nobody/no-such-set"), tmp_path / "data")
    assert "nobody/no-such-set" in str(raised.value)
    assert [p.name for p in (tmp_path / "data" / "hub").iterdir()] == [found.rpartition("/")[2]]


def test_interrupted_fetch_goes_on_behind_the_last_finished_file(tmp_path, write_jsonl, monkeypatch):
    monkeypatch.setattr("nemo_cascade.data.rows.hub._FILE_BYTES", 20_000)
    write_jsonl(ROWS)
    source, read = DataFileConfig(path=f"hf://{tmp_path}"), []

    def stop_at(limit):
        def passed_on(row):
            read.append(row)
            if len(read) == limit:
                raise KeyboardInterrupt
            return without_nulls(row)

        monkeypatch.setattr("nemo_cascade.data.rows.hub.without_nulls", passed_on)

    stop_at(300)
    with pytest.raises(KeyboardInterrupt):
        local_path(source, tmp_path / "data")
    finished = read.copy()
    read.clear()
    stop_at(None)
    assert rows_of(local_path(source, tmp_path / "data")) == ROWS
    assert len(ROWS) - 300 <= len(read) < len(ROWS) - 100, "most of what was there isn't read again"
    assert len(finished) == 300


def test_damaged_table_is_refused(tmp_path):
    for suffix in ("parquet", "arrow"):
        (tmp_path / f"x.{suffix}").write_bytes(b"PAR1 and nothing else")
        with pytest.raises(DataError, match=rf"not {suffix}, or damaged"):
            list(read_raw(tmp_path / f"x.{suffix}"))


DECLARED = """You are a helpful and harmless assistant.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "add", "parameters": {}}}
{"name": "now"}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
WITH_TOOLS = [
    {"role": "system", "content": DECLARED},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": f"<think>\nadd\n</think>\n\n{CALLED}"},
    {"role": "tool", "content": "<tool_response>\n2\n</tool_response>"},
    {"role": "assistant", "content": "<think>\ndone\n</think>\n\nTwo."},
]
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
QUESTION = {"messages": [USER]}
BOXED = "q\n\nPlease reason step by step, and put your final answer within \\boxed{}."
ASKED = {"messages": [{"role": "user", "content": BOXED}]}
TESTS = {"FAIL_TO_PASS": '["t::a"]', "PASS_TO_PASS": ["t::b"]}
# A row as each set is described, and what has to be in ours.
SETS = {
    "nemotron_cascade_sft": (
        {"category": "tool", "messages": WITH_TOOLS},
        {"tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}, {"name": "now"}]},
    ),
    "nemotron_cascade_2_sft": ({"messages": [USER, ASSISTANT], "tools": [{"name": "f"}]}, {"tools": [{"name": "f"}]}),
    "acereason_sft": ({"category": "math", "input": "q", "output": "<think>x</think>a"}, {**QUESTION}),
    "openmathreasoning": (
        {"problem": "q", "generated_solution": "a", "expected_answer": "4"},
        {"answer": "4", **ASKED},
    ),
    "opencodereasoning": ({"id": "1", "input": "q", "output": "a", "solution": "x"}, {**QUESTION}),
    "helpsteer2": ({"prompt": "q", "response": "a", "helpfulness": 3, "verbosity": 1}, {"helpfulness": 3, **QUESTION}),
    "helpsteer2_preference": (
        {"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": 2},
        {"chosen": "y", "rejected": "x", "margin": 2, **QUESTION},
    ),
    "helpsteer3": (
        {"context": [USER, ASSISTANT, USER], "response1": "x", "response2": "y", "overall_preference": -1},
        {"chosen": "x", "rejected": "y", "messages": [USER, ASSISTANT, USER]},
    ),
    "nemotron_cascade_rl_rlhf": ({"prompt": [USER]}, QUESTION),
    "if_multi_constraints": (
        {"messages": [USER], "ground_truth": "[{'instruction_id': ['a:b'], 'kwargs': [None]}]", "key": "1"},
        {"ground_truth": "[{'instruction_id': ['a:b'], 'kwargs': [None]}]", **QUESTION},
    ),
    "nemotron_cascade_rl_if": (
        {"prompt": [USER], "instruction_id_list": ["a:b"], "kwargs": '[{"n": 1}]'},
        {"instruction_id_list": ["a:b"], "kwargs": [{"n": 1}], **QUESTION},
    ),
    "nemotron_cascade_rl_math": ({"problem": "q", "answer": "4", "source": "s"}, {"answer": "4", **ASKED}),
    "nemotron_cascade_rl_swe": (
        {"original_prompt": "q", "relevant_file_contents": [{"path": "a.py", "content": "x"}], "golden_patch": "diff"},
        {"files": {"a.py": "x"}, "patch": "diff", "problem": "q", **QUESTION},
    ),
    "acereason_math": ({"problem": "q", "answer": "4"}, {"answer": "4", **ASKED}),
    "nemo_gym": (
        {"responses_create_params": {"input": [USER]}, "agent_ref": {"name": "math"}, "expected_answer": "4"},
        {"answer": "4", **QUESTION},
    ),
    "swe_bench": (
        {"problem_statement": "q", "patch": "diff", **TESTS},
        {"fail_to_pass": ["t::a"], "pass_to_pass": ["t::b"], "problem": "q", "patch": "diff"},
    ),
    "swe_smith": ({"problem_statement": "q", "patch": "breaks it", **TESTS}, {"fail_to_pass": ["t::a"], **QUESTION}),
    "r2e_gym": ({"problem_statement": "q", "modified_files": ["a.py"]}, {"gold_files": ["a.py"], **QUESTION}),
    "swe_bench_agent": (
        {"instance_id": "a-1", "problem_statement": "q", "patch": "diff", "test_patch": "diff", **TESTS},
        {"messages": agent_messages("q"), "tools": AGENT_TOOLS, "test_patch": "diff", **TESTS},
    ),
    "r2e_gym_agent": (
        {
            "commit_hash": "abc",
            "problem_statement": "q",
            "execution_result_content": '{"test_file_names": []}',
            "expected_output_json": "{}",
            "parsed_commit_content": "{}",
        },
        {"tools": AGENT_TOOLS, "execution_result_content": {"test_file_names": []}, "expected_output_json": {}},
    ),
}


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "own"])
def test_released_sets_columns_become_ours(name):
    raw, expected = SETS[name]
    row, problem = schema_of(name).apply(raw)
    assert problem is None
    for key, value in expected.items():
        assert row[key][: len(value)] == value if key == "messages" else row[key] == value
    template = NAMED["cascade1"]
    problems = (
        template.samples(row)[1] if row["messages"][-1]["role"] == "assistant" else template.prompt(row, "think")[1]
    )
    assert problems == []
    assert SCHEMAS[name].basis
    question = ("messages", "problem", "prompt", "input", "context", "problem_statement", "original_prompt")
    question += ("responses_create_params",)
    missing = {k: v for k, v in raw.items() if k not in question}
    assert schema_of(name).apply(missing)[1].startswith("no column")


def test_tools_written_into_the_text_are_written_again_by_each_template_in_its_own_way():
    row, _ = schema_of("nemotron_cascade_sft").apply({"messages": WITH_TOOLS})
    with_tools = [name for name in NAMED if name != "nemotron_4"]  # whose format has none
    whole = {
        name: "".join(s.text for s in NAMED[name].render(row["messages"], tools=row["tools"])) for name in with_tools
    }
    assert whole["cascade1"].count("# Tools") == whole["cascade2"].count("# Tools") == 1
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in whole["cascade1"]
    assert "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>" in whole["cascade2"]
    assert whole.pop("nano_v2").count("<TOOL_RESPONSE>[2]</TOOL_RESPONSE>") == 1
    for text in whole.values():
        assert text.count("<tool_response>\n2\n</tool_response>") == 1


@pytest.mark.parametrize(
    ("role", "content", "problem"),
    [
        ("assistant", "<tool_call>\n{broken\n</tool_call>", "turn 2 writes a tool or a call that is"),
        ("assistant", f"{CALLED} and so on", "turn 2 (assistant) goes on behind its <tool_call>, or"),
        ("assistant", '<tool_call>\n{"name": "f"}', "turn 2 (assistant) goes on behind its <tool_call>, or"),
        ("tool", "<tool_response>2", "turn 2 (tool) isn't wrapped in one"),
    ],
)
def test_tools_that_cannot_be_lifted_are_named(role, content, problem):
    turn = {"role": role, "content": content}
    row, told = schema_of("nemotron_cascade_sft").apply({"messages": [*WITH_TOOLS[:2], turn]})
    assert row == {}
    assert told.startswith(problem)


def test_columns_of_a_configuration_are_a_mapping_or_override_one():
    raw = {"meta": {"q": "what"}, "a": "so", "lang": "en", "mode": "fast"}
    schema = schema_of("own", {"user": "{meta.q}? ({lang})", "assistant": "a", "reasoning": "thought?"})
    row, problem = schema.apply(raw)
    assert problem is None
    assert row["messages"] == [{"role": "user", "content": "what? (en)"}, {"role": "assistant", "content": "so"}]
    assert "mode" not in row, "a set's own `mode` isn't ours"
    assert schema_of("acereason_sft", {"user": "question"}).apply({"question": "x", "output": "y"})[1] is None
    assert schema.key != schema_of("own").key
    for columns in ({"messages": "x", "user": "y"}, {"assistant": "x"}, {"reasoning": "x", "messages": "y"}):
        with pytest.raises(DataError, match="columns that make no one conversation"):
            schema_of("own", columns)
    with pytest.raises(DataError, match=r"unknown schema; got: helpsteer; allowed: own, "):
        schema_of("helpsteer")


def test_a_column_that_is_missing_is_told_beside_those_there_are_and_those_expected_and_a_guess_as_such():
    _, told = schema_of("nemotron_cascade_rl_swe").apply({"prompt": "q", "golden_patch": "diff"})
    assert told == (
        "no column 'original_prompt' (there are prompt, golden_patch; the mapping reads original_prompt, "
        "relevant_file_contents, golden_patch); its name is a guess: give the right one in `columns`"
    )
    _, told = schema_of("helpsteer3").apply({"context": "q", "response1": "x", "overall_preference": 1})
    assert told == (
        "no column 'response2' (there are context, response1, overall_preference; the mapping reads context, "
        "overall_preference, response1, response2)"
    )
    _, told = schema_of("own", {"user": "{a.b}: {c}", "tools": "d?"}).apply({"a": {"b": 1}})
    assert told == "no column 'c' (there are a; the mapping reads a.b, c, d?)"
    for name, schema in SCHEMAS.items():
        read = {p for where in schema.fields.values() for p in where.split(" |")}
        assert set(schema.guessed) <= read, name


def test_sharegpt_turns_and_parts_of_text_are_read():
    def read(raw):
        return decode_row(RawRow("f", 1, raw), schema_of("own", {"messages": "conversations"}))

    raw = {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": [{"type": "text", "text": "a"}]}]
    }
    assert read(raw)[0]["messages"] == [USER, ASSISTANT]
    raw["conversations"][1]["value"] = [{"type": "image", "url": "x"}]
    assert read(raw)[1] == "turn 1 (assistant) holds more than text"


def test_mapped_source_is_packed_and_its_bad_rows_are_quarantined_within_the_share(tokenizer, write_jsonl, tmp_path):
    good = [{"input": f"{i}+{i}", "output": f"<think>\nadd\n</think>\n{2 * i}"} for i in range(16)]
    bad = [{"input": "no answer"}, "{broken\n", {"input": "x", "output": " "}, {"input": "long", "output": "1" * 300}]
    path = write_jsonl([*good[:5], *bad, *good[5:]])
    rules = {"source": {"schema": "acereason_sft"}, "overlong": "drop"}
    with pytest.raises(DataError, match="3 rows are no training conversations") as raised:
        build_packed_store(sft_stage(path, **rules), tokenizer.folder, tmp_path / "c")
    told = f"{path}:6: no column 'output' (there are input; the mapping reads input, output)\n"
    assert told in str(raised.value)
    with pytest.raises(DataError, match=r"4 of 20 samples can't be trained on \(3 broken, 1 longer.*share 0\.1\)"):
        build_packed_store(sft_stage(path, max_bad_fraction=0.1, **rules), tokenizer.folder, tmp_path / "c")
    store = build_packed_store(sft_stage(path, max_bad_fraction=0.2, **rules), tokenizer.folder, tmp_path / "c")
    assert (store.stats["samples"], store.stats["rows_read"], store.stats["dropped_broken"]) == (16, 20, 3)
    told = [json.loads(line) for line in (store.folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(t["file"], t["line"], t["kind"]) for t in told] == [
        (path, 6, "broken"), (path, 7, "broken"), (path, 8, "broken"), (path, 9, "overlong")
    ]  # fmt: skip
    assert told[1]["reason"].startswith("broken line")
    other = build_packed_store(sft_stage(write_jsonl([conversation()], "o.jsonl")), tokenizer.folder, tmp_path / "c")
    assert (other.folder / "quarantine.jsonl").read_text() == ""


def test_prompts_and_pairs_are_mapped_too(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([{"problem": f"{i}+1", "answer": str(i + 1), "source": "s"} for i in range(3)])
    prompts = PromptSet.load(
        path, "math", "math", "think", tokenizer, 99, schema_of("nemotron_cascade_rl_math")
    ).prompts
    assert [p.record["answer"] for p in prompts] == ["1", "2", "3"]
    assert "2+1\n\nPlease reason" in tokenizer.decode(prompts[2].token_ids)

    def pair(i, strength):
        context = [{"role": "user", "content": f"question {i}"}]
        return {"context": context, "response1": "one", "response2": "two", "overall_preference": strength}

    files = [write_jsonl([pair(n, s) for n, s in rows], name) for name, rows in
             (("pairs.jsonl", enumerate((-3, 1, 0, 2, 0))), ("held.jsonl", [(9, 1)]))]  # fmt: skip
    data = PairDataConfig(path=files[0], holdout_path=files[1], schema="helpsteer3")
    train, _ = build_pair_stores(data, 512, tokenizer.folder, tmp_path / "c")
    assert len(train) == 3
    assert (train.stats["rows_read"], train.stats["dropped_tied"], train.stats["dropped_unusable"]) == (5, 2, 0)
    chosen = [tokenizer.decode(train.documents(i)[0].input_ids) for i in range(3)]
    assert [text.endswith("one<|im_end|>") for text in chosen] == [True, False, False]
