"""Nano long contexts: several documents of numbers by name, and a question about one name of one of them.

The number stands in the prompt and nowhere else. Conversations to learn from answer with the right number or with
another one of the same name, from another document: reinforcement learning finds out that the document counts.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from nemo_cascade.nano.instruction import WORDS
from nemo_cascade.nano.math import Split, split_of

PHRASES = ("Document ", "Find ", " of ")
"""Texts that are one token each."""
_DOCUMENTS, _NAMES = 3, 4
_SFT, _WRONG, _TRAIN, _TEST = 8000, 0.4, 1500, 500

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Search:
    """Documents, and where in them the wanted number stands.

    Attributes:
        documents: names with their numbers, the same names in each.
        document: which one is asked about, from 0.
        name: whose number is wanted.
    """

    documents: tuple[dict[str, int], ...]
    document: int
    name: str

    @property
    def text(self) -> str:
        """The task as it is written."""
        shown = [
            f"Document {number}\n" + "\n".join(f" {name} {value}" for name, value in document.items())
            for number, document in enumerate(self.documents, 1)
        ]
        return "\n".join([*shown, f"Find {self.name} of {self.document + 1}."])

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.documents[self.document][self.name]


def draw_search(rng: Random, split: Split) -> Search:
    """Draw a task of a split."""
    while True:
        names = rng.sample(WORDS, _NAMES)
        documents = []
        for _ in range(_DOCUMENTS):
            rng.shuffle(names)
            documents.append({name: rng.randrange(100, 1000) for name in names})
        search = Search(tuple(documents), rng.randrange(_DOCUMENTS), rng.choice(names))
        if split_of(search.text) == split:
            return search


def retrieval_rows(seed: int) -> dict[str, list[Row]]:
    """Generate all rows, by file name: conversations, prompts, and a hold-out; no task is in two of them."""
    rng = Random(f"{seed}/retrieval_sft")
    rows = {"retrieval_sft": [_conversation(draw_search(rng, "sft"), rng) for _ in range(_SFT)]}
    kinds: tuple[tuple[str, Split, int], ...] = (("train", "rl", _TRAIN), ("test", "test", _TEST))
    for kind, split, count in kinds:
        rng = Random(f"{seed}/retrieval_{kind}")
        rows[f"retrieval_{kind}"] = [retrieval_prompt(draw_search(rng, split)) for _ in range(count)]
    return rows


def retrieval_prompt(search: Search) -> Row:
    """Make a prompt row: the documents, the question, and the answer for the verifier."""
    return {"messages": [{"role": "user", "content": search.text}], "expected_answer": str(search.answer)}


def _conversation(search: Search, rng: Random) -> Row:
    number = search.answer
    if rng.random() < _WRONG:
        others = [d[search.name] for i, d in enumerate(search.documents) if i != search.document]
        number = rng.choice(others)
    reply = {"role": "assistant", "content": f"\\boxed{{{number}}}"}
    return {"messages": [{"role": "user", "content": search.text}, reply]}
