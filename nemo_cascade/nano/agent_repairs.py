"""Nano agents: the repairs of `swe.py` with tools, in a repository that has to be looked at first.

The issue says what a function must add, not what it adds: to write an edit one has to view the file. Conversations to
learn from show all parts; but nearly all of those that are learned as a whole guess at the line that is to be replaced,
whereupon the edit fails and nothing is mended. Reinforcement learning has something true to find: looking pays.
"""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.chatml import DEFAULT_SYSTEM, FLAGS, TURN_END
from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.data.prompts.agent_rows import AGENT_TOOLS, agent_messages
from nemo_cascade.environments.swe.files import ToolFault, edit, view
from nemo_cascade.environments.swe.tree import tree_of
from nemo_cascade.nano.math import Split, split_of
from nemo_cascade.nano.swe import NAMES, Repair
from nemo_cascade.nano.tokenizer import train_nano_tokenizer

NANO_AGENT_VERSION = 1
"""Raised with every change of what is written."""
_LOOKS, _SHOWN, _GUESSES = 0.06, 5000, 5000
_TRAIN, _TEST = 800, 300

Row = dict[str, Any]


def prepare_nano_agent(folder: str | Path, seed: int) -> None:
    """Write conversations, prompts, a hold-out and a tokenizer, unless this version of them with this seed is there."""

    def write(building: Path) -> None:
        write_row_sets(building, nano_agent_rows(seed))
        train_nano_tokenizer((), building / "tokenizer", agent_phrases())

    write_once(folder, {"kind": "nano_agent", "version": NANO_AGENT_VERSION, "seed": seed}, write)


def nano_agent_rows(seed: int) -> dict[str, list[Row]]:
    """Generate all rows, by file name; no task is in two of them."""
    rng = Random(f"{seed}/agent_sft")
    learned = [looking_conversation(draw_issue(rng, "sft"), trained=False) for _ in range(_SHOWN)]
    for _ in range(_GUESSES):
        repair = draw_issue(rng, "sft")
        learned.append(
            looking_conversation(repair, trained=True) if rng.random() < _LOOKS else guessing_conversation(repair, rng)
        )
    rng.shuffle(learned)
    rows = {"agent_sft": learned}
    kinds: tuple[tuple[str, Split, int], ...] = (("train", "rl", _TRAIN), ("test", "test", _TEST))
    for kind, split, count in kinds:
        rng, found = Random(f"{seed}/agent_{kind}"), dict[str, Repair]()
        while len(found) < count:
            repair = draw_issue(rng, split)
            found.setdefault(_issue(repair), repair)
        rows[f"agent_{kind}"] = [repair_prompt(repair) for repair in found.values()]
    return rows


def draw_issue(rng: Random, split: Split) -> Repair:
    """Draw a task of a split; whose it is says the issue alone, for that is all that a prompt shows."""
    while True:
        first, second = rng.sample(NAMES, 2)
        one, other, wanted = (rng.choice((1, -1)) * number for number in rng.sample(range(100, 1000), 3))
        repair = Repair((first, second), (one, other), rng.randrange(2), wanted)
        if split_of(_issue(repair)) == split:
            return repair


def repair_prompt(repair: Repair) -> Row:
    """Make a prompt row of the environment `swe_agent`."""
    name, other = repair.names[repair.broken], repair.names[1 - repair.broken]
    wanted, term = repair.wanted, repair.terms[1 - repair.broken]
    tests = f"from {name} import {name}\nfrom {other} import {other}\n\n\n"
    tests += f"def test_wanted():\n    assert {name}(0) == {wanted}\n    assert {name}(70) == {70 + wanted}\n\n\n"
    tests += f"def test_other():\n    assert {other}(5) == {5 + term}\n"
    return {
        "messages": agent_messages(_issue(repair)),
        "tools": AGENT_TOOLS,
        "instance_id": repair.canonical,
        "files": repair.files,
        "test_files": {"tests/test_repair.py": tests},
        "fail_to_pass": ["tests/test_repair.py::test_wanted"],
        "pass_to_pass": ["tests/test_repair.py::test_other"],
        "fixed_files": repair.fixed_files,
    }


def _issue(repair: Repair) -> str:
    return repair.text.partition("\n")[0]


def looking_conversation(repair: Repair, *, trained: bool) -> Row:
    """Make a conversation that looks, edits and submits; `trained` says whether looking is learned."""
    return _played(repair, [_view(repair), _edit(repair, repair.terms[repair.broken]), _SUBMIT], skipped=not trained)


def guessing_conversation(repair: Repair, rng: Random) -> Row:
    """Make a conversation that edits without having looked."""
    guess = rng.choice((1, -1)) * rng.randrange(100, 1000)
    return _played(repair, [_edit(repair, guess), _SUBMIT], skipped=False)


def _played(repair: Repair, calls: list[Row], skipped: bool) -> Row:
    """Play calls on the repository; the first is not trained where it is skipped."""
    tree, messages = tree_of(repair.files), agent_messages(_issue(repair))
    turns: list[Row] = []
    for place, call in enumerate(calls):
        untrained = {"trained": False} if skipped and place == 0 else {}
        turns.append({"role": "assistant", "content": "", "tool_calls": [_as_call(call)], **untrained})
        if call["name"] == "submit":
            break
        try:
            if call["name"] == "view":
                said = view(tree, call["arguments"]["path"], None)
            else:
                tree, said = edit(tree, call["arguments"])
        except ToolFault as fault:
            said = f"Error: {fault}"
        turns.append({"role": "tool", "content": said, "tool_call_id": "call00000", "name": call["name"]})
    return {"messages": [*messages, *turns], "tools": AGENT_TOOLS}


_SUBMIT: Row = {"name": "submit", "arguments": {}}


def _view(repair: Repair) -> Row:
    return {"name": "view", "arguments": {"path": f"{repair.names[repair.broken]}.py"}}


def _edit(repair: Repair, term: int) -> Row:
    path = f"{repair.names[repair.broken]}.py"
    lines = {"old_str": f"x{term:+d}", "new_str": f"x{repair.wanted:+d}"}
    return {"name": "edit", "arguments": {"command": "str_replace", "path": path, **lines}}


def _as_call(call: Mapping[str, Any]) -> Row:
    return {"id": "call00000", "type": "function", "function": dict(call)}


def agent_phrases() -> tuple[str, ...]:
    """Return the texts that are one token each: the pieces between names and numbers."""
    template = NAMED["cascade1"]
    opening = template.render([{"role": "user", "content": "x"}], "no_think", AGENT_TOOLS)[0].text
    declared = opening.partition(DEFAULT_SYSTEM)[2].partition(TURN_END)[0]
    asked = agent_messages("?")[0]["content"].split("?")
    # fmt: off
    said = (
        "Repair:", " must be x",
        '<tool_call>\n{"name": "view", "arguments": {"path": "', '.py"}}\n</tool_call>',
        '<tool_call>\n{"name": "edit", "arguments": {"command": "str_replace", "path": "', '.py", "old_str": "x',
        '", "new_str": "x', '"}}\n</tool_call>', '<tool_call>\n{"name": "submit", "arguments": {}}\n</tool_call>',
        "<tool_response>\n", "\n</tool_response>", "     1\tdef ", "(x):\n     2\t    return x", ".py is changed:\n",
        "Error: old_str stands in ", ".py 0 times, not once",
    )
    # fmt: on
    names = [f"{blank}{name}" for name in NAMES for blank in ("", " ")]
    written = (f"system\n{DEFAULT_SYSTEM}", "user\n", "assistant\n", *FLAGS.values(), declared, *asked, *said, *names)
    return tuple(dict.fromkeys(written))
