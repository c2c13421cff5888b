r"""The released sets' columns, mapped to our rows: one declarative entry each.

A mapping says for each field of ours where it comes from: a column (`problem`), a field of one (`metadata.source`), the
JSON text in one (`FAIL_TO_PASS | json`), files in one (`contents | files`: path -> text, or a list of {path or
file_path, content}, either perhaps as JSON text), a column that may be absent (`tools?`), or a text with columns in
braces (`{problem}\n\n{hint}`). Fields that make the conversation are `messages` (turns, also ShareGPT's from/value), or
`system`, `user`, `reasoning` and `assistant`; `user` may itself be turns. What else is named stands in the row under
that name, beside all of the set's own columns, which verifiers may read.

`basis` says what an entry is based on. Sets differ between versions: a row that lacks a column is a bad row, told by
file and line, and `columns` of a source's configuration overrides single fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nemo_cascade.data.inline_tools import lift_tools
from nemo_cascade.errors import DataError

OWN = "own"
NO_PREFERENCE = "neither response is preferred"
_BRACES = re.compile(r"\{([A-Za-z_][\w.]*)\}")
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "function": "tool", "observation": "tool"}
_PARTS = ("system", "user", "reasoning", "assistant")
_OURS = ("messages", "mode", "tools", "chosen", "rejected")


@dataclass(frozen=True)
class Schema:
    """How a set's rows become ours.

    Attributes:
        basis: what the mapping is based on; empty: our own rows.
        fields: our field -> where it comes from.
        inline_tools: tools are declared in the system text, and calls and results are written into the turns' texts.
        preference: (column, first response, second response): a negative number prefers the first, 0 neither.
    """

    basis: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    inline_tools: bool = False
    preference: tuple[str, str, str] | None = None

    @property
    def key(self) -> str:
        """Everything that a mapped row depends on beside the row."""
        return json.dumps([sorted(self.fields.items()), self.inline_tools, self.preference]) if self.basis else OWN

    def apply(self, raw: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Map a row. Returns ours and None, or an empty row and what's wrong with it."""
        if not self.basis:
            return dict(raw), None
        try:
            found = {name: _value(raw, where) for name, where in self.fields.items()}
            # Names that mean something to us aren't taken over from a set that may mean something else.
            row = {k: v for k, v in raw.items() if k not in _OURS}
            row |= {k: v for k, v in found.items() if k not in _PARTS and v is not None}
            if "messages" in found:
                row["messages"] = _turns(found["messages"])
            elif "user" in found:
                row["messages"] = _conversation(found)
            if self.preference is not None:
                row |= _preferred(raw, self.preference)
            return (lift_tools(row) if self.inline_tools else row), None
        except (KeyError, TypeError, ValueError) as error:
            return {}, str(error.args[0]) if error.args else repr(error)


def schema_of(name: str, columns: Mapping[str, str] | None = None) -> Schema:
    """Return a set's mapping, with single fields overridden.

    Raises:
        DataError: no set of that name.
    """
    if name not in SCHEMAS:
        raise DataError("unknown schema", value=name, limit=", ".join(SCHEMAS))
    schema = SCHEMAS[name]
    if not columns:
        return schema
    return replace(schema, basis=schema.basis or "configuration", fields={**schema.fields, **columns})


def _value(raw: Mapping[str, Any], where: str) -> Any:
    if _BRACES.search(where):
        return _BRACES.sub(lambda match: str(_column(raw, match[1])), where)
    column, _, kind = (part.strip() for part in where.partition("|"))
    if column.endswith("?") and raw.get(column[:-1]) is None:
        return None
    value = _column(raw, column.rstrip("?"))
    if kind in ("json", "files") and isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"column {column!r} is broken JSON: {error}") from error
    return _files(value, column) if kind == "files" else value


def _files(value: Any, column: str) -> dict[str, str]:
    """Read files as path -> text."""
    if isinstance(value, Mapping):
        value = [{"path": path, "content": text} for path, text in value.items()]
    named = isinstance(value, list) and all(isinstance(f, Mapping) for f in value)
    pairs: list[tuple[Any, Any]] = [(f.get("path", f.get("file_path")), f.get("content")) for f in value if named]
    if not named or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise ValueError(f"column {column!r} holds no files: path -> text, or a list of path and content")
    return dict(pairs)


def _column(raw: Mapping[str, Any], path: str) -> Any:
    value: Any = raw
    for name in path.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            raise KeyError(f"no column {path!r} (there are {', '.join(map(str, raw))})")
        value = value[name]
    return value


def _turns(given: Any) -> list[Any]:
    """Read turns, of our own form or ShareGPT's; a text is one user's turn."""
    if isinstance(given, str):
        if not given.lstrip().startswith("["):
            return [{"role": "user", "content": given}]
        given = json.loads(given)
    if not isinstance(given, list):
        raise TypeError("the conversation is no list of turns")
    return [_turn(message) for message in given]


def _turn(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    turn = dict(message)
    if "from" in turn and "value" in turn:
        turn |= {"role": turn.pop("from"), "content": turn.pop("value")}
    if isinstance(turn.get("content"), list):
        parts = turn["content"]
        if not all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in parts):
            raise ValueError("a turn holds more than text")
        turn["content"] = "".join(p["text"] for p in parts)
    role = turn.get("role")
    return {**turn, "role": _ROLES.get(role, role)} if isinstance(role, str) else turn


def _conversation(found: Mapping[str, Any]) -> list[Any]:
    turns = _turns(found["user"])
    if isinstance(found.get("system"), str) and found["system"].strip():
        turns = [{"role": "system", "content": found["system"]}, *turns]
    if "assistant" in found:
        thought = {"reasoning_content": found["reasoning"]} if found.get("reasoning") else {}
        turns.append({"role": "assistant", "content": found["assistant"], **thought})
    return turns


def _preferred(raw: Mapping[str, Any], columns: tuple[str, str, str]) -> dict[str, Any]:
    strength, first, second = (_column(raw, column) for column in columns)
    if not isinstance(strength, int | float):
        raise TypeError(f"column {columns[0]!r} is no number")
    if strength == 0:
        raise ValueError(NO_PREFERENCE)
    chosen, rejected = (first, second) if strength < 0 else (second, first)
    return {"chosen": chosen, "rejected": rejected, "margin": abs(strength)}


_CARD = "the set's card"
_BOXED = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
OWN_ROWS = Schema()
SCHEMAS: dict[str, Schema] = {
    OWN: OWN_ROWS,
    # Supervised fine-tuning.
    "nemotron_cascade_sft": Schema(
        "public loaders of nvidia/Nemotron-Cascade-SFT-Stage-1 and -2 (`messages`; tool rows declare their tools in "
        "the system text, write <tool_call> into the reply and have turns of role `tool`)",
        {"messages": "messages", "tools": "tools?"},
        inline_tools=True,
    ),
    "nemotron_cascade_2_sft": Schema(
        "public loaders of nvidia/Nemotron-Cascade-2-SFT-Data, which share one with Cascade 1's stage 2",
        {"messages": "messages", "tools": "tools?"},
        inline_tools=True,
    ),
    "acereason_sft": Schema(
        f"{_CARD} and public loaders of nvidia/AceReason-1.1-SFT (category, source, input, output)",
        {"user": "input", "assistant": "output"},
    ),
    "openmathreasoning": Schema(
        f"{_CARD} of nvidia/OpenMathReasoning (problem, generated_solution, expected_answer, inference_mode, ...)",
        {"user": _BOXED, "assistant": "generated_solution", "answer": "expected_answer"},
    ),
    "opencodereasoning": Schema(
        f"{_CARD} of nvidia/OpenCodeReasoning, split_0 (id, input, output, solution, ...); split_1 leaves `input` to "
        "be filled in from its source",
        {"user": "input", "assistant": "output"},
    ),
    "helpsteer2": Schema(
        f"{_CARD} of nvidia/HelpSteer2 (prompt, response, and five attributes of 0 to 4)",
        {"user": "prompt", "assistant": "response"},
    ),
    # Pairs of a reward model.
    "helpsteer2_preference": Schema(
        f"{_CARD} of nvidia/HelpSteer2, preference/ (prompt, response_1, response_2, preference_strength -3 to 3)",
        {"user": "prompt"},
        preference=("preference_strength", "response_1", "response_2"),
    ),
    "helpsteer3": Schema(
        f"{_CARD} of nvidia/HelpSteer3, preference (domain, language, context, response1, response2, "
        "overall_preference -3 to 3); the paper leaves out those of 0 (arXiv 2512.13607, section 4.2)",
        {"user": "context"},
        preference=("overall_preference", "response1", "response2"),
    ),
    # Prompts of reinforcement learning.
    "nemotron_cascade_rl_rlhf": Schema(
        "a guess after its sister sets: no description of nvidia/Nemotron-Cascade-RL-RLHF's columns was found",
        {"user": "prompt"},
    ),
    "nemotron_cascade_rl_if": Schema(
        "public loaders of nvidia/Nemotron-Cascade-RL-Instruction-Following (prompt: turns or a text, "
        "instruction_id_list, kwargs)",
        {"user": "prompt", "instruction_id_list": "instruction_id_list | json", "kwargs": "kwargs | json"},
    ),
    "nemotron_cascade_rl_math": Schema(
        "public loaders of nvidia/Nemotron-Cascade-RL-Math (problem, answer, source)",
        {"user": "problem", "answer": "answer"},
    ),
    "nemotron_cascade_rl_code": Schema(
        "a guess: no description of the released code prompts' columns was found; tests in a form that the verifier "
        "reads (`input_output`, LiveCodeBench's, HumanEval's, MBPP's) are read from the row as they are",
        {"user": "prompt"},
    ),
    "nemotron_cascade_rl_swe": Schema(
        "public loaders of nvidia/Nemotron-Cascade-RL-SWE (prompt, golden_patch, relevant_file_contents: a list of "
        "path and content, original_prompt, instance_id, source). They don't agree which of the prompts is the bare "
        "issue: original_prompt is taken for it, and a row is refused whose issue already shows a file",
        {
            "user": "original_prompt",
            "problem": "original_prompt",
            "files": "relevant_file_contents | files",
            "patch": "golden_patch",
        },
    ),
    "acereason_math": Schema(
        f"{_CARD} of nvidia/AceReason-Math (problem, answer)",
        {"user": _BOXED, "answer": "answer"},
    ),
    "swe_bench": Schema(
        "the cards of SWE-bench and its like, SWE-Gym, SWE-rebench (repo, instance_id, base_commit, problem_statement, "
        "patch, test_patch, FAIL_TO_PASS, PASS_TO_PASS); they hold no files, so prompts need them added",
        {
            "user": "problem_statement",
            "problem": "problem_statement",
            "patch": "patch",
            "fail_to_pass": "FAIL_TO_PASS | json",
            "pass_to_pass": "PASS_TO_PASS | json",
        },
    ),
    "swe_smith": Schema(
        "the card of SWE-bench/SWE-smith (instance_id, repo, patch, FAIL_TO_PASS, PASS_TO_PASS, image_name, "
        "problem_statement); its patch makes the bug, so the golden one is its reverse and isn't taken over",
        {
            "user": "problem_statement",
            "problem": "problem_statement",
            "fail_to_pass": "FAIL_TO_PASS | json",
            "pass_to_pass": "PASS_TO_PASS | json",
        },
    ),
    "r2e_gym": Schema(
        "public loaders of R2E-Gym/R2E-Gym-Subset (repo_name, docker_image, commit_hash, problem_statement, "
        "modified_files, relevant_files, expected_output_json, ...)",
        {"user": "problem_statement", "problem": "problem_statement", "gold_files": "modified_files | json"},
    ),
}
"""Sets by name."""
