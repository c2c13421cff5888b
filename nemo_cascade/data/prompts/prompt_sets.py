"""Prompts of an RL stage or an evaluation suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_cascade.config.stages.tasks import (
    ComparisonPromptConfig,
    ProfileConfig,
    PromptsConfig,
    RepairPromptConfig,
    TaskConfig,
)
from nemo_cascade.data.chat.encode import ChatTokenizer, Mode, encode_segments
from nemo_cascade.data.chat.rendered import render_prompt
from nemo_cascade.data.prompts.comparison_rows import ComparisonPrompts
from nemo_cascade.data.prompts.profiles import admitted, rates_of
from nemo_cascade.data.prompts.swe_rows import RepairPrompts
from nemo_cascade.data.rows.columns import OWN_ROWS, Schema
from nemo_cascade.data.rows.gym_rows import agent_of
from nemo_cascade.data.rows.hub import local_path
from nemo_cascade.data.rows.quarantine import BadRow, write_bad_rows
from nemo_cascade.data.rows.raw_row import RawRow
from nemo_cascade.data.rows.schemas import schema_of
from nemo_cascade.data.rows.sources import Problems, decode_row, read_raw
from nemo_cascade.errors import DataError
from nemo_cascade.types import ONE_TURN, EnvironmentUse, Int32, Task

RecordCheck = Callable[[str, Mapping[str, Any]], str | None]
"""(verifier, row) -> why that verifier can't judge any response to the row; None if it can."""

UNJUDGED = ""
"""Stands for a verifier where nobody judges the responses."""


def _any_record(verifier: str, record: Mapping[str, Any]) -> str | None:
    return None


@dataclass
class _Found:
    """What became of the rows so far."""

    domain: str
    verifier: str
    tokenizer: ChatTokenizer
    modes: list[Mode]
    lengths: tuple[int, int | None]
    max_prompt_tokens: int
    settings: Mapping[str, Any]
    environment: EnvironmentUse
    record_check: RecordCheck
    prompts: dict[str, Task] = field(default_factory=dict)
    quick: list[Task] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    unbuilt: list[BadRow] = field(default_factory=list)
    overlong: Problems = field(default_factory=Problems)
    twice: Problems = field(default_factory=Problems)
    left_out: int = 0

    def measure(self, row: Mapping[str, Any]) -> tuple[int, list[str]]:
        """Return the tokens of a row's prompt in its longest mode, or its problems."""
        encoded, problems = self._encode(row)
        return max(map(len, encoded), default=0), problems

    def add(
        self, raw: RawRow, row: dict[str, Any], problem: str | None, kind: str = "", too_long: bool = False
    ) -> None:
        """Make a prompt of a row, or note why there is none."""
        if too_long:
            self.left_out += 1
            self.unbuilt.append(BadRow(raw.file, raw.line, "overlong", f"{kind}: {problem}"))
            return
        encoded, problems = ([], [problem]) if problem else self._encode(row)
        if not problems and (unjudged := self.record_check(self.verifier, row)):
            problems = [f"verifier {self.verifier} can't judge it: {unjudged}"]
        if problems:
            if not (self.bad and (self.bad[-1].file, self.bad[-1].line) == (raw.file, raw.line)):
                self.bad.append(BadRow(raw.file, raw.line, "broken", "; ".join(dict.fromkeys(problems))))
            return
        token_ids, *others = encoded
        longest = max(map(len, encoded))
        if not self.lengths[0] <= longest <= (self.lengths[1] or longest):
            self.left_out += 1
            return
        task_id = f"{Path(raw.file).stem}/{raw.line}" + f"/{kind}" * bool(kind)
        if longest > self.max_prompt_tokens:
            self.overlong.add(f"{raw.place}: {longest} tokens")
        if task_id in self.prompts:
            self.twice.add(f"{raw.place}: {task_id}")
        asked = {**row, "mode": self.modes[0]}
        rest = self.settings, self.environment
        self.prompts[task_id] = Task(task_id, self.domain, self.verifier, token_ids, asked, *rest)
        for ids in others:
            quick = {**row, "mode": self.modes[1]}
            self.quick.append(Task(task_id, self.domain, self.verifier, ids, quick, *rest))

    def _encode(self, row: Mapping[str, Any]) -> tuple[list[Int32], list[str]]:
        rendered = [render_prompt(self.tokenizer, row, mode) for mode in self.modes]
        if problems := [p for _, found in rendered for p in found]:
            return [], problems
        return [ids for ids, _ in encode_segments(self.tokenizer, [segments for segments, _ in rendered])], []


class PromptSet:
    """All prompts of a file or folder, tokenised, in file order.

    Attributes:
        prompts: the prompts.
        quick: the same ones asked not to think, if every other prompt of a batch is; else empty.
        duplicates: prompts whose tokens equal those of an earlier one.
        left_out: how many were left out for their length.
        bad: rows that are no prompts and were allowed for, and those of which a repair prompt can't be built.
        parts: the sets that it was joined of, by their tasks' names; empty if it is none of those.
        rates: pass rate of each prompt; empty where none are known.
    """

    def __init__(
        self, prompts: Sequence[Task], source: str = "prompts", quick: Sequence[Task] = (), left_out: int = 0
    ) -> None:
        self.prompts, self.source, self.quick, self.left_out = list(prompts), source, list(quick), left_out
        self.bad: list[BadRow] = []
        self.parts: dict[str, PromptSet] = {}
        self.rates: list[float] = []
        self.duplicates = len(self.prompts) - len({p.token_ids.tobytes() for p in self.prompts})

    @classmethod
    def load(
        cls,
        path: str | Path,
        domain: str,
        verifier: str,
        mode: Mode | Literal["half"],
        tokenizer: ChatTokenizer,
        max_prompt_tokens: int,
        schema: Schema = OWN_ROWS,
        lengths: tuple[int, int | None] = (0, None),
        max_bad_fraction: float = 0.0,
        repair: RepairPromptConfig | None = None,
        comparison: ComparisonPromptConfig | None = None,
        settings: Mapping[str, Any] | None = None,
        environment: EnvironmentUse = ONE_TURN,
        record_check: RecordCheck = _any_record,
        agents: Sequence[str] = (),
    ) -> PromptSet:
        """Load and tokenise the prompts of a JSONL or parquet file, or a folder of them.

        Each row, mapped by the schema, has `messages`, ending with a user's or a tool's turn, perhaps `tools`, and
        whatever its verifier needs; the whole row becomes the prompt's record, its `mode` the one that it is asked in.
        Its id is `<file stem>/<line>`, lines from 1. With the mode half, every other prompt of a batch is asked to
        think. Prompts with fewer or more tokens than `lengths` says are left out, and rows that are no prompts if they
        are no more than max_bad_fraction of all. Where `repair` is enabled, the messages are built of the row's files,
        and an id ends with the prompt's kind; a prompt that can't be built within its length is left out and listed. A
        row that its verifier can't judge, says `record_check`, is no prompt. Of rows that name their agent those of
        `agents` are taken, if any is named.

        Raises:
            DataError: broken rows, prompts of more than `max_prompt_tokens` tokens, or an id twice: every one
                counted, the first twenty named by file and line; or no prompt at all.
        """
        modes: list[Mode] = ["think", "no_think"] if mode == "half" else [mode]
        found = _Found(
            domain, verifier, tokenizer, modes, lengths, max_prompt_tokens, settings or {}, environment, record_check
        )
        budget = min(lengths[1] or max_prompt_tokens, max_prompt_tokens)
        builder: RepairPrompts | ComparisonPrompts | None = None
        if repair and repair.enabled:
            builder = RepairPrompts(repair, budget, tokenizer, found.measure)
        elif comparison and comparison.enabled:
            builder = ComparisonPrompts(comparison)
        rows = 0
        for raw in read_raw(path):
            row, problem = decode_row(raw, schema)
            if agents and not problem and agent_of(row) not in agents:
                continue
            rows += 1
            if builder is None or problem:
                found.add(raw, row, problem)
                continue
            for made in builder.build(row):
                found.add(raw, made.row, made.problem, made.kind, made.left_out)
        broken = Problems()
        for b in found.bad:
            broken.add(f"{b.file}:{b.line}: {b.reason}")
        if broken.total > max_bad_fraction * rows:
            broken.refuse("rows are no prompts", "mend or remove the rows, or raise the task's max_bad_fraction")
        found.overlong.refuse(
            f"prompts are longer than {max_prompt_tokens} tokens", "remove them, or raise rollout.max_model_len"
        )
        found.twice.refuse("prompts have the id of another", "give the files of the folder different names")
        if not found.prompts:
            value = f"{path}, {found.left_out} left out for their length"
            raise DataError("no prompts", value=value, mend="give a file with at least one row that fits")
        loaded = cls(list(found.prompts.values()), str(path), found.quick, found.left_out)
        loaded.bad = [*found.bad, *found.unbuilt]
        return loaded

    @classmethod
    def joined(cls, sets: Sequence[PromptSet]) -> PromptSet:
        """Return all prompts of several sets as one.

        Raises:
            DataError: a prompt's id is in two of them.
        """
        if len(sets) == 1:
            return sets[0]
        prompts = [prompt for part in sets for prompt in part.prompts]
        if len({prompt.task_id for prompt in prompts}) != len(prompts):
            raise DataError(
                "two prompt sets have files of the same name, so their prompts have the same ids",
                value=", ".join(part.source for part in sets),
                mend="give the files different names",
            )
        halved = any(part.quick for part in sets)
        quick = [prompt for part in sets for prompt in part.quick or part.prompts] if halved else []
        found = cls(prompts, ", ".join(part.source for part in sets), quick, sum(part.left_out for part in sets))
        found.bad = [row for part in sets for row in part.bad]
        found.rates = [rate for part in sets for rate in part.rates] if all(part.rates for part in sets) else []
        return found

    @classmethod
    def of_tasks(cls, sets: Mapping[str, PromptSet]) -> PromptSet:
        """Return the prompts of several tasks as one set that knows its parts."""
        joined = cls.joined(list(sets.values()))
        joined.parts = dict(sets)
        return joined

    def profiled(self, rule: ProfileConfig) -> PromptSet:
        """Return the prompts that a profile lets in, with their pass rates.

        Raises:
            DataError: the profile lacks prompts, or lets none in.
        """
        if rule.path is None:
            return self
        rates = rates_of(self.prompts, rule.path)
        places = admitted(rates, rule)
        if not places:
            raise DataError(
                "no prompt has a pass rate that is asked for",
                value=f"{len(self)} in {self.source}",
                mend="wider limits of the pass rate, or another profile",
            )
        quick = [self.quick[i] for i in places] if self.quick else ()
        kept = PromptSet([self.prompts[i] for i in places], self.source, quick, self.left_out)
        kept.bad, kept.rates = self.bad, [rates[i] for i in places]
        return kept

    def __len__(self) -> int:
        return len(self.prompts)

    def asked(self, indices: Sequence[int]) -> list[Task]:
        """Return a batch of prompts by their places; of half and half, every other one is asked not to think."""
        return [self.quick[i] if self.quick and slot % 2 else self.prompts[i] for slot, i in enumerate(indices)]

    def first(self, n: int) -> list[Task]:
        """Return the first n prompts in file order, for evaluation.

        Raises:
            DataError: n is more than there are.
        """
        if n > len(self):
            raise self.too_few(n)
        return self.prompts[:n]

    def too_few(self, n: int) -> DataError:
        """Return the error that n prompts are more than there are."""
        return DataError(
            "more prompts are asked for than there are",
            value=n,
            limit=f"{len(self)} in {self.source}",
            mend="ask for fewer, or add prompts",
        )


def load_prompts(
    tasks: Mapping[str, PromptsConfig],
    tokenizer: ChatTokenizer,
    max_prompt_tokens: int,
    data_dir: str | Path,
    record_check: RecordCheck = _any_record,
) -> PromptSet:
    """Load an RL stage's prompts, of all its tasks in their order.

    Args:
        tasks: name -> where the prompts are, how they are asked and, unless nobody does, who judges.
        tokenizer: of the policy.
        max_prompt_tokens: what the response leaves of the model's length.
        data_dir: where prepared data lives; bad rows that the rules allow are listed under its quarantine.
        record_check: tells rows that their verifier can't judge.

    Raises:
        DataError: see `PromptSet.load` and `PromptSet.joined`.
    """
    sets = {
        name: _load_task(name, task, tokenizer, max_prompt_tokens, data_dir, record_check)
        for name, task in tasks.items()
    }
    return PromptSet.of_tasks(sets)


def _load_task(
    name: str,
    task: PromptsConfig,
    tokenizer: ChatTokenizer,
    max_prompt_tokens: int,
    data_dir: str | Path,
    record_check: RecordCheck,
) -> PromptSet:
    judged = task if isinstance(task, TaskConfig) else None
    prompts = PromptSet.load(
        local_path(task, data_dir),
        domain=task.domain,
        verifier=UNJUDGED if judged is None else judged.reward.kind,
        mode=task.mode,
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        schema=schema_of(task.schema, task.columns),
        lengths=(task.min_tokens, task.max_tokens),
        max_bad_fraction=task.max_bad_fraction,
        repair=task.repair,
        comparison=None if judged is None else judged.comparison,
        settings=None if judged is None else judged.reward.options,
        environment=task.environment.use,
        record_check=_any_record if judged is None else record_check,
        agents=task.agents,
    )
    if prompts.bad:
        write_bad_rows(Path(data_dir) / "quarantine" / f"{Path(prompts.source).stem}-{name}.jsonl", prompts.bad)
    return prompts if judged is None else prompts.profiled(judged.profile)
