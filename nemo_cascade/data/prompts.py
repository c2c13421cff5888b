"""Prompts of an RL stage or an evaluation suite, and the endless stream that a stage draws from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nemo_cascade.data.chat import ChatTokenizer, Mode, encode_segments
from nemo_cascade.data.schemas import OWN_ROWS, Schema
from nemo_cascade.data.sources import Problems, decode_row, read_raw
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int64, Prompt


class PromptSet:
    """All prompts of a file or folder, tokenised, in file order.

    Attributes:
        prompts: the prompts.
        duplicates: prompts whose tokens equal those of an earlier one.
    """

    def __init__(self, prompts: Sequence[Prompt], source: str = "prompts") -> None:
        self.prompts, self.source = list(prompts), source
        self.duplicates = len(self.prompts) - len({p.token_ids.tobytes() for p in self.prompts})

    @classmethod
    def load(
        cls,
        path: str | Path,
        domain: str,
        verifier: str,
        mode: Mode,
        tokenizer: ChatTokenizer,
        max_prompt_tokens: int,
        schema: Schema = OWN_ROWS,
    ) -> PromptSet:
        """Load and tokenise the prompts of a JSONL or parquet file, or a folder of them.

        Each row, mapped by the schema, has `messages`, ending with a user's or a tool's turn, perhaps `tools`, and
        whatever its verifier needs; the whole row becomes the prompt's record. Its id is
        `<file stem>/<line>`, lines from 1.

        Raises:
            DataError: broken rows, prompts of more than `max_prompt_tokens` tokens, or an id twice: every one
                counted, the first twenty named by file and line; or no prompt at all.
        """
        broken, overlong, twice = Problems(), Problems(), Problems()
        prompts: dict[str, Prompt] = {}
        for raw in read_raw(path):
            row, problem = decode_row(raw, schema)
            segments, problems = ([], [problem]) if problem else tokenizer.template.prompt(row, mode)
            if problems:
                broken.add(f"{raw.place}: {'; '.join(problems)}")
                continue
            token_ids = encode_segments(tokenizer, [segments])[0][0]
            prompt_id = f"{Path(raw.file).stem}/{raw.line}"
            if len(token_ids) > max_prompt_tokens:
                overlong.add(f"{raw.place}: {len(token_ids)} tokens")
            if prompt_id in prompts:
                twice.add(f"{raw.place}: {prompt_id}")
            prompts[prompt_id] = Prompt(prompt_id, domain, verifier, token_ids, row)
        broken.refuse("rows are no prompts", "mend or remove the rows")
        overlong.refuse(
            f"prompts are longer than {max_prompt_tokens} tokens", "remove them, or raise rollout.max_model_len"
        )
        twice.refuse("prompts have the id of another", "give the files of the folder different names")
        if not prompts:
            raise DataError("no prompts", value=str(path), mend="give a file with at least one row")
        return cls(list(prompts.values()), str(path))

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, cursor: int, n: int, seed: int) -> list[Prompt]:
        """Take n different prompts from the stream at `cursor`; the next batch begins at cursor + n.

        The stream is the prompts in a new order each epoch: a pure function of cursor and seed, so that any
        position can be gone back to. Where a batch reaches into the next epoch, a prompt that is already in it is
        passed over for the one behind.

        Raises:
            DataError: n is more than there are.
        """
        self._require(n)
        taken: dict[int, None] = {}
        position = cursor
        order, epoch = self._order(position // len(self), seed), position // len(self)
        while len(taken) < n:
            if position // len(self) != epoch:
                epoch = position // len(self)
                order = self._order(epoch, seed)
            taken.setdefault(int(order[position % len(self)]))
            position += 1
        return [self.prompts[i] for i in taken]

    def first(self, n: int) -> list[Prompt]:
        """Return the first n prompts in file order, for evaluation.

        Raises:
            DataError: n is more than there are.
        """
        self._require(n)
        return self.prompts[:n]

    def _order(self, epoch: int, seed: int) -> Int64:
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def _require(self, n: int) -> None:
        if n > len(self):
            raise DataError(
                "more prompts are asked for than there are",
                value=n,
                limit=f"{len(self)} in {self.source}",
                mend="ask for fewer, or add prompts",
            )
