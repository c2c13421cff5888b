"""Repair prompts of SWE RL, built from an issue and files up to a length (arXiv 2512.13607, section 4.7.1).

    ground_truth    issue, all files that the golden patch changes
    mixed           the same, and noise files (those that a localiser named beside them), drawn, as long as they fit

Files are shown whole or not at all, in an order drawn anew, so that a file's place tells nothing. The tokens of a
prompt are those of the finished prompt, as the policy will see it: never more than the budget. All that is drawn
follows from the row's content and the rules' seed, not from where the row stands.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.config.stages.tasks import RepairPromptConfig
from nemo_cascade.data.chat.tokenizer import ChatTokenizer

# Few texts are packed more densely; longer files aren't tokenised just to find that they don't fit.
_MOST_CHARACTERS_PER_TOKEN = 32
_TICKS = re.compile(r"`{3,}")
_FILE_HEADERS = re.compile(r"^--- (\S+)[^\n]*\n\+\+\+ (\S+)", re.MULTILINE)
_ASK = """Resolve the issue below by editing files of its repository.

<issue>
{problem}
</issue>

These files may matter; not all of them do.

{files}

Answer with SEARCH/REPLACE edits between <solution> and </solution>. Each edit names its file on a line of its own, \
then gives lines that stand in that file exactly so, blanks included, and the lines to put in their place:

<solution>
### path/to/file.py
<<<<<<< SEARCH
lines as they are
=======
lines as they should be
>>>>>>> REPLACE
</solution>

An edit with an empty SEARCH makes a new file."""

_ASK_TEST = """Write one test that shows the issue below: it fails on the repository as it is, and passes once \
the issue is resolved.

<issue>
{problem}
</issue>

These files may matter; not all of them do.

{files}

Answer with the whole test file, for pytest, in one closed code block:

```python
from package.module import name


def test_issue():
    assert name(1) == 2
```"""


@dataclass(frozen=True, slots=True)
class RepairPrompt:
    """One prompt made of a row, or why none was made.

    Attributes:
        kind: ground_truth or mixed.
        row: the row with `messages`, and `files` of what is shown only; empty where there is a problem.
        problem: what is wrong, empty for a prompt.
        left_out: the problem is one of length, not of the row's making.
    """

    kind: str
    row: dict[str, Any]
    problem: str = ""
    left_out: bool = False


class RepairPrompts:
    """Builds the prompts of rows with `problem`, `files` (path -> text) and the golden `patch` or `fixed_files`.

    What must be shown are the files that the golden patch changes, and `gold_files` where the row names them; all other
    files are noise.

    Args:
        rules: kinds, most files, seed.
        budget: most tokens of a prompt, from its first to the one before the reply.
        tokenizer: of the policy.
        measure: tokens of the finished prompt of a row with `messages`, or problems that it has.
    """

    def __init__(
        self,
        rules: RepairPromptConfig,
        budget: int,
        tokenizer: ChatTokenizer,
        measure: Callable[[Mapping[str, Any]], tuple[int, list[str]]],
    ) -> None:
        self._rules, self._budget, self._tokenizer, self._measure = rules, budget, tokenizer, measure

    def build(self, row: Mapping[str, Any]) -> list[RepairPrompt]:
        """Make a row's prompts, one for each kind, in the rules' order."""
        try:
            problem, files, needed = _read(row)
        except ValueError as error:
            return [RepairPrompt(kind, {}, str(error)) for kind in self._rules.kinds]
        return [self._build(kind, row, problem, files, needed) for kind in self._rules.kinds]

    def _build(
        self, kind: str, row: Mapping[str, Any], problem: str, files: Mapping[str, str], needed: list[str]
    ) -> RepairPrompt:
        rng = Random(f"{self._rules.seed}/{kind}/{problem}/{'/'.join(needed)}")
        rank = dict(zip(sorted(files), rng.sample(range(len(files)), len(files)), strict=True))
        shown = [path for path in needed if path in files]

        def finished(chosen: Sequence[str]) -> dict[str, Any]:
            own = {path: files[path] for path in sorted(chosen, key=rank.__getitem__)}
            return {**row, "problem": problem, "messages": repair_messages(problem, own), "files": own}

        result = finished(shown)
        tokens, problems = self._measure(result)
        if problems:
            return RepairPrompt(kind, {}, "; ".join(dict.fromkeys(problems)))
        if tokens > self._budget:
            why = f"issue and ground-truth files alone are {tokens} tokens, the budget is {self._budget}"
            return RepairPrompt(kind, {}, why, left_out=True)
        if kind == "ground_truth":
            return RepairPrompt(kind, result)
        noise = self._fitting(rng, files, shown, self._budget - tokens)
        while noise:
            result = finished([*shown, *noise])
            tokens, problems = self._measure(result)
            if tokens <= self._budget and not problems:
                return RepairPrompt(kind, result)
            noise.pop()
        return RepairPrompt(kind, {}, "no noise file fits", left_out=True)

    def _fitting(self, rng: Random, files: Mapping[str, str], shown: list[str], room: int) -> list[str]:
        """Draw noise files that fit by the sum of their tokens; the finished prompt is measured after that."""
        control_in = self._tokenizer.control_in
        noise = [p for p in sorted(files) if p not in shown and control_in(files[p], tags=True) is None]
        rng.shuffle(noise)
        chosen: list[str] = []
        for path in noise:
            if len(shown) + len(chosen) >= self._rules.max_files:
                break
            block = _block(path, files[path])
            if len(block) > room * _MOST_CHARACTERS_PER_TOKEN:
                continue
            tokens = len(self._tokenizer.encode_many([block])[0])
            if tokens <= room:
                chosen.append(path)
                room -= tokens
        return chosen


def changed_paths(patch: str) -> tuple[list[str], list[str]]:
    """Return the paths that a unified diff changes, and among them those of new files."""
    paths, new = [], []
    for old, path in _FILE_HEADERS.findall(patch):
        paths.append(_bare(old if path == "/dev/null" else path))
        if old == "/dev/null":
            new.append(paths[-1])
    return list(dict.fromkeys(paths)), new


def _bare(path: str) -> str:
    return re.sub(r"^[ab]/", "", path)


def _read(row: Mapping[str, Any]) -> tuple[str, dict[str, str], list[str]]:
    """Return issue, files and the paths of the ground truth; raises ValueError with what is wrong."""
    problem, files = row.get("problem"), row.get("files")
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError("no issue: `problem` must be a text")
    if not isinstance(files, Mapping) or not all(isinstance(t, str) for pair in files.items() for t in pair):
        raise ValueError("no files: `files` must map paths to texts")
    if isinstance(row.get("fixed_files"), Mapping):
        changed = [path for path, text in row["fixed_files"].items() if files.get(path) != text]
        new = [path for path in changed if path not in files]
    elif isinstance(row.get("patch"), str):
        changed, new = changed_paths(row["patch"])
    else:
        raise ValueError("no golden patch: `patch` or `fixed_files`")
    if not changed:
        raise ValueError("the golden patch changes no file")
    needed = list(dict.fromkeys([*changed, *map(str, row.get("gold_files") or ())]))
    if missing := [path for path in needed if path not in files and path not in new]:
        raise ValueError(f"ground-truth files are not among `files`: {', '.join(missing)}")
    for path in needed:
        if len(files.get(path, "").strip()) > 80 and files[path].strip() in problem:
            raise ValueError(f"`problem` shows {path} already: it must be the bare issue")
    return problem.strip(), dict(files), needed


def repair_messages(problem: str, files: Mapping[str, str]) -> list[dict[str, str]]:
    """Ask for the repair of an issue, showing these files (path -> text) in this order."""
    shown = "\n\n".join(_block(path, text) for path, text in files.items())
    return [{"role": "user", "content": _ASK.format(problem=problem, files=shown)}]


def reproduction_messages(problem: str, files: Mapping[str, str]) -> list[dict[str, str]]:
    """Ask for a test that fails before the issue is resolved and passes then, showing these files in this order."""
    shown = "\n\n".join(_block(path, text) for path, text in files.items())
    return [{"role": "user", "content": _ASK_TEST.format(problem=problem, files=shown)}]


def _block(path: str, text: str) -> str:
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in _TICKS.findall(text))])
    return f"### {path}\n{fence}\n{text.rstrip(chr(10))}\n{fence}"
