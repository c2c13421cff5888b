"""The released sets' columns, mapped to our rows: one entry each; `data/rows/columns.py` says how to read it.

`basis` says what an entry is based on: the papers name the sets, not their columns. `guessed` names the columns that no
card and no loader was found to name. Sets differ between versions: a row that lacks a column is a bad row, told by file
and line with the columns it has and those that the mapping reads; over max_bad_fraction such rows stop the run
(DataError). `columns` of a source's configuration overrides single fields.
"""

from collections.abc import Mapping
from dataclasses import replace

from nemo_cascade.data.rows.columns import OURS, OWN, OWN_ROWS, UNDOUBTED, Schema
from nemo_cascade.errors import DataError

_CARD = "the set's card"
_BOXED = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
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
        "a public loader of nvidia/Nemotron-Cascade-RL-RLHF (prompt: turns, data_source, category)",
        {"user": "prompt"},
    ),
    "if_multi_constraints": Schema(
        "public loaders of allenai/IF_multi_constraints_upto5 and the card of its sister without language constraints "
        "(key, messages, ground_truth: a Python literal, dataset, constraint_type, constraint)",
        {"messages": "messages", "ground_truth": "ground_truth"},
    ),
    "nemotron_cascade_rl_if": Schema(
        "public loaders of nvidia/Nemotron-Cascade-RL-Instruction-Following (prompt: turns or a text, "
        "instruction_id_list, kwargs)",
        {"user": "prompt", "instruction_id_list": "instruction_id_list | json", "kwargs": "kwargs | json"},
    ),
    "nemotron_cascade_rl_math": Schema(
        "public loaders of nvidia/Nemotron-Cascade-RL-Math (problem, answer, source). Whether a problem asks for a box "
        "itself isn't described, so all are asked to: the reward reads one (arXiv 2512.13607, section 4.5)",
        {"user": _BOXED, "answer": "answer"},
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
        guessed=("original_prompt",),
    ),
    "acereason_math": Schema(
        f"{_CARD} of nvidia/AceReason-Math (problem, answer)",
        {"user": _BOXED, "answer": "answer"},
    ),
    "nemo_gym": Schema(
        "NVIDIA-NeMo/Gym's rows as its servers read them (responses_create_params, agent_ref, and each environment's "
        "own columns), and the cards of nvidia/Nemotron-RL-* that hold such rows",
        {},
        kept=("messages", "tools"),
        request=True,
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
    # Tasks of an agent (environment swe_agent), which reads the sets' other columns itself.
    "swe_bench_agent": Schema(
        "as swe_bench; the repositories lie in a folder, by instance_id",
        {"user": "problem_statement", "instance_id": "instance_id", "test_patch": "test_patch"},
        agent=True,
    ),
    "r2e_gym_agent": Schema(
        "R2E-Gym's own runtime and public graders of R2E-Gym/R2E-Gym-Subset (execution_result_content with "
        "test_file_names and test_file_codes, expected_output_json, parsed_commit_content); the repositories lie in a "
        "folder, by commit_hash",
        {
            "user": "problem_statement",
            "commit_hash": "commit_hash",
            "execution_result_content": "execution_result_content | json",
            "expected_output_json": "expected_output_json | json",
            "parsed_commit_content": "parsed_commit_content | json",
        },
        agent=True,
        guessed=("parsed_commit_content",),
    ),
}
"""Sets by name."""


def schema_of(name: str, columns: Mapping[str, str] | None = None) -> Schema:
    """Return a set's mapping, with single fields overridden.

    Raises:
        DataError: no set of that name, or a mapping that names the conversation twice or in part.
    """
    if name not in SCHEMAS:
        raise DataError("unknown schema", value=name, limit=", ".join(SCHEMAS), mend="name one of these")
    schema = SCHEMAS[name]
    if not columns:
        return schema
    fields = {**schema.fields, **columns}
    made = [name for name in ("user", "reasoning", "assistant") if name in fields]
    if not schema.basis:  # rows whose messages aren't mapped are ours but for what is
        schema = replace(schema, basis="configuration", kept=UNDOUBTED if made or "messages" in fields else OURS)
    if ("messages" in fields and made) or (made and "user" not in fields):
        limit = "`messages`, or `user` and perhaps `reasoning` and `assistant`; `system` beside either"
        raise DataError(
            "columns that make no one conversation",
            value=", ".join(sorted(fields)),
            limit=limit,
            mend="rename the columns, or name a schema",
        )
    return replace(schema, fields=fields)
