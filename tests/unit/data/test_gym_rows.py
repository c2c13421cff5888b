"""NeMo Gym's rows as they are: the conversation out of the request, the rest for the verifier."""

import json

import numpy as np
import pytest

from nemo_cascade.config.model import OptimizerConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.data.prompts.prompt_sets import load_prompts
from nemo_cascade.data.prompts.streams import open_stream
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.errors import DataError

TOOL = {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object"}, "strict": False}


def row(content="2+2?", agent="math_simple_agent", **more):
    request = {"input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": content}]}
    reference = {"type": "responses_api_agents", "name": agent}
    return {"responses_create_params": request, "agent_ref": reference, "expected_answer": "4", **more}


def lifted(raw):
    return schema_of("nemo_gym").apply(raw)


def test_a_request_is_a_conversation_with_tools_calls_and_thoughts():
    given = {"input": [
        {"role": "user", "content": [{"type": "input_text", "text": t} for t in ("Look ", "there.")]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "dark"},
        {"type": "function_call_output", "call_id": "b", "output": "light"},
    ], "tools": [TOOL], "instructions": "Be kind."}  # fmt: skip
    made, problem = lifted({"responses_create_params": given, "id": 7})
    assert problem is None
    system, user, reply, first, second = made["messages"]
    assert (system["content"], user["content"], reply["reasoning_content"]) == ("Be kind.", "Look there.", "hm")
    assert [call["id"] for call in reply["tool_calls"]] == ["a", "b"]
    assert (first["content"], second["tool_call_id"], made["id"]) == ("dark", "b", 7)
    assert made["tools"][0]["function"].keys() == {"name", "description", "parameters"}
    assert lifted({"responses_create_params": {"input": "Hi."}})[0]["messages"] == [{"role": "user", "content": "Hi."}]
    assert lifted(row())[0]["answer"] == "4"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "no column"),
        ({"responses_create_params": {"input": []}}, "no list of items"),
        ({"responses_create_params": {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}}, "no text"),
        ({"responses_create_params": {"input": [{"type": "web_search_call"}]}}, "unknown type"),
        ({"responses_create_params": {"input": "x"}, "_hf_placeholder": {"row": 1}}, "placeholder"),
        ({"responses_create_params": {"input": "x", "tools": [{"type": "mcp"}]}}, "no function"),
    ],
)
def test_what_can_not_be_read_is_told(raw, words):
    assert words in lifted(raw)[1]


def task(path, agent, **more):
    math = {"kind": "math"}
    return TaskConfig(path=path, domain=agent, reward=math, schema="nemo_gym", agents=[agent], mode="no_think", **more)


def test_tasks_pick_their_rows_of_one_file_and_every_batch_has_their_shares(tokenizer, write_jsonl, tmp_path):
    path = write_jsonl([row(f"{i}+{i}?", agent="abc"[i % 3]) for i in range(60)])
    tasks = {name: task(path, name, weight=weight) for name, weight in (("a", 5.0), ("b", 2.0), ("c", 0.5))}
    prompts = load_prompts(tasks, tokenizer, 512, tmp_path)
    assert [len(part) for part in prompts.parts.values()] == [20, 20, 20]
    stage = GrpoStage(
        tasks=tasks, steps=1, prompts_per_step=8, num_generations=2, optimizer=OptimizerConfig(lr=1.0), seq_length=8
    )
    stream = open_stream(prompts, stage, 0, None)
    counts = []
    for _ in range(15):
        drawn = [t.domain for t in stream.take(8)]
        counts.append([drawn.count(name) for name in "abc"])
    assert np.sum(counts, axis=0).tolist() == [80, 32, 8]
    assert np.ptp(counts, axis=0).max() <= 1
    # It goes on as if it hadn't been stopped.
    again = open_stream(prompts, stage, 0, json.loads(json.dumps(stream.state())))
    assert [t.task_id for t in again.take(8)] == [t.task_id for t in stream.take(8)]
    # What dynamic sampling throws away comes back out of its own domain.
    for group in stream.take(8):
        stream.passed_over(group.task_id)
    drawn = [t.domain for t in stream.take(8)]
    assert drawn.count("a") in (5, 6)
    with pytest.raises(DataError, match="no prompts"):
        load_prompts({"z": task(path, "z")}, tokenizer, 512, tmp_path)
