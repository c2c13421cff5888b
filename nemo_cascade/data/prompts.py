"""Prompts of an RL stage or an evaluation suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nemo_cascade.config.stage import PromptSetConfig
from nemo_cascade.data.chat import ChatTokenizer, Mode, encode_segments
from nemo_cascade.data.hub import local_path
from nemo_cascade.data.quarantine import BadRow, write_bad_rows
from nemo_cascade.data.schemas import OWN_ROWS, Schema, schema_of
from nemo_cascade.data.sources import Problems, decode_row, read_raw
from nemo_cascade.errors import DataError
from nemo_cascade.types import Prompt


class PromptSet:
    """All prompts of a file or folder, tokenised, in file order.

    Attributes:
        prompts: the prompts.
        quick: the same ones asked not to think, if every other prompt of a batch is; else empty.
        duplicates: prompts whose tokens equal those of an earlier one.
        left_out: how many were left out for their length.
        bad: rows that are no prompts and were allowed for.
    """

    def __init__(
        self, prompts: Sequence[Prompt], source: str = "prompts", quick: Sequence[Prompt] = (), left_out: int = 0
    ) -> None:
        self.prompts, self.source, self.quick, self.left_out = list(prompts), source, list(quick), left_out
        self.bad: list[BadRow] = []
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
    ) -> PromptSet:
        """Load and tokenise the prompts of a JSONL or parquet file, or a folder of them.

        Each row, mapped by the schema, has `messages`, ending with a user's or a tool's turn, perhaps `tools`, and
        whatever its verifier needs; the whole row becomes the prompt's record. Its id is `<file stem>/<line>`, lines
        from 1. With the mode half, every other prompt of a batch is asked to think (`mode` in its record says which).
        Prompts with fewer or more tokens than `lengths` says are left out, and rows that are no prompts if they are no
        more than max_bad_fraction of all.

        Raises:
            DataError: broken rows, prompts of more than `max_prompt_tokens` tokens, or an id twice: every one
                counted, the first twenty named by file and line; or no prompt at all.
        """
        overlong, twice, left_out = Problems(), Problems(), 0
        bad: list[BadRow] = []
        rows = 0
        prompts: dict[str, Prompt] = {}
        quick: list[Prompt] = []
        modes: list[Mode] = ["think", "no_think"] if mode == "half" else [mode]
        for raw in read_raw(path):
            rows += 1
            row, problem = decode_row(raw, schema)
            rendered = [([], [problem]) if problem else tokenizer.template.prompt(row, m) for m in modes]
            if problems := [p for _, found in rendered for p in found]:
                bad.append(BadRow(raw.file, raw.line, "broken", "; ".join(dict.fromkeys(problems))))
                continue
            token_ids, *others = (ids for ids, _ in encode_segments(tokenizer, [segments for segments, _ in rendered]))
            longest = max(map(len, (token_ids, *others)))
            if not lengths[0] <= longest <= (lengths[1] or longest):
                left_out += 1
                continue
            prompt_id = f"{Path(raw.file).stem}/{raw.line}"
            if longest > max_prompt_tokens:
                overlong.add(f"{raw.place}: {longest} tokens")
            if prompt_id in prompts:
                twice.add(f"{raw.place}: {prompt_id}")
            record = {**row, "mode": modes[0]} if others else row
            prompts[prompt_id] = Prompt(prompt_id, domain, verifier, token_ids, record)
            quick += [Prompt(prompt_id, domain, verifier, ids, {**row, "mode": modes[1]}) for ids in others]
        if len(bad) > max_bad_fraction * rows:
            broken = Problems(total=len(bad))
            broken.first += [f"{b.file}:{b.line}: {b.reason}" for b in bad[: broken.limit]]
            broken.refuse("rows are no prompts", "mend or remove the rows, or raise prompts.max_bad_fraction")
        overlong.refuse(
            f"prompts are longer than {max_prompt_tokens} tokens", "remove them, or raise rollout.max_model_len"
        )
        twice.refuse("prompts have the id of another", "give the files of the folder different names")
        if not prompts:
            value = f"{path}, {left_out} left out for their length"
            raise DataError("no prompts", value=value, mend="give a file with at least one row that fits")
        found = cls(list(prompts.values()), str(path), quick, left_out)
        found.bad = bad
        return found

    @classmethod
    def joined(cls, sets: Sequence[PromptSet]) -> PromptSet:
        """Return all prompts of several sets as one.

        Raises:
            DataError: a prompt's id is in two of them.
        """
        if len(sets) == 1:
            return sets[0]
        prompts = [prompt for part in sets for prompt in part.prompts]
        if len({prompt.prompt_id for prompt in prompts}) != len(prompts):
            raise DataError(
                "two prompt sets have files of the same name, so their prompts have the same ids",
                value=", ".join(part.source for part in sets),
                mend="give the files different names",
            )
        halved = any(part.quick for part in sets)
        quick = [prompt for part in sets for prompt in part.quick or part.prompts] if halved else []
        found = cls(prompts, ", ".join(part.source for part in sets), quick, sum(part.left_out for part in sets))
        found.bad = [row for part in sets for row in part.bad]
        return found

    def __len__(self) -> int:
        return len(self.prompts)

    def asked(self, indices: Sequence[int]) -> list[Prompt]:
        """Return a batch of prompts by their places; of half and half, every other one is asked not to think."""
        return [self.quick[i] if self.quick and slot % 2 else self.prompts[i] for slot, i in enumerate(indices)]

    def first(self, n: int) -> list[Prompt]:
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
    sets: Sequence[PromptSetConfig], tokenizer: ChatTokenizer, max_prompt_tokens: int, data_dir: str | Path
) -> PromptSet:
    """Load an RL stage's prompts, of all its sets.

    Args:
        sets: where the prompts are, and how they are asked.
        tokenizer: of the policy.
        max_prompt_tokens: what the response leaves of the model's length.
        data_dir: where prepared data lives; bad rows that the rules allow are listed under its quarantine.

    Raises:
        DataError: see `PromptSet.load` and `PromptSet.joined`.
    """
    return PromptSet.joined([_load_set(rules, tokenizer, max_prompt_tokens, data_dir) for rules in sets])


def _load_set(
    rules: PromptSetConfig, tokenizer: ChatTokenizer, max_prompt_tokens: int, data_dir: str | Path
) -> PromptSet:
    prompts = PromptSet.load(
        local_path(rules, data_dir),
        domain=rules.domain,
        verifier=rules.verifier,
        mode=rules.mode,
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        schema=schema_of(rules.schema, rules.columns),
        lengths=(rules.min_tokens, rules.max_tokens),
        max_bad_fraction=rules.max_bad_fraction,
    )
    if prompts.bad:
        name = f"{Path(prompts.source).stem}-{rules.domain}-{rules.verifier}.jsonl"
        write_bad_rows(Path(data_dir) / "quarantine" / name, prompts.bad)
    return prompts
