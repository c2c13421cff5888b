"""Conversations of real sentences with known repeats of each other and known evaluation prompts planted in them."""

import json
import random
from dataclasses import dataclass, field

from tests.support.real_text import sentences

KINDS = ("exact", "case", "white space", "three words", "digits")
ARABIC_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


@dataclass
class Planted:
    """What was written: for each row the kind of its repeat or contamination, where it has one."""

    rows: list = field(default_factory=list)
    prompts: list = field(default_factory=list)
    repeats: dict = field(default_factory=dict)
    contaminations: dict = field(default_factory=dict)


def vary(text, kind, rng, words):
    if kind == "case":
        return rng.choice([text.upper(), text.title(), text.lower(), text.swapcase()])
    if kind == "white space":
        return "".join(rng.choice(["  ", "\n", "\t", " \u00a0", "\u2003"]) if c == " " else c for c in text)
    if kind == "digits":
        return text.translate(rng.choice([ARABIC_INDIC, FULL_WIDTH]))
    if kind == "three words":
        parts = text.split()
        for place in rng.sample(range(len(parts)), 3):
            parts[place] = rng.choice(words)
        return " ".join(parts)
    return text


def plant(count, packages, seed=0, share=0.01, prompts=200):
    """Write `count` conversations; of each kind, `share` are repeats and `share` hold an evaluation prompt."""
    rng = random.Random(seed)
    pool = sentences(*packages)
    rng.shuffle(pool)
    # Evaluation prompts are made of sentences, and of words in a row, that occur nowhere else.
    held_out, pool = pool[: 2 * prompts], pool[2 * prompts :]
    known = {run for sentence in pool for run in runs_of(sentence, 8)}
    held_out = [s for s in held_out if not known & set(runs_of(s, 8))]
    words = sorted({word for sentence in pool for word in sentence.split()})
    made = Planted()
    made.prompts = [
        f"Problem {i}: {a} {b} Take {rng.randrange(10**4)} of them in {rng.randrange(10**4)} steps."
        for i, (a, b) in enumerate(zip(held_out[::2], held_out[1::2], strict=False))
    ]
    half = len(KINDS) * share
    for i in range(count):
        draw, kind = rng.random(), rng.choice(KINDS)
        chosen = rng.sample(pool, rng.randint(3, 9))
        chosen.insert(rng.randrange(len(chosen)), f"Step {i} takes {rng.randrange(10**6)} of {rng.randrange(10**6)}.")
        text = " ".join(chosen)
        if draw < half and i > 10:
            other = rng.randrange(i)
            while other in made.repeats or other in made.contaminations:
                other = rng.randrange(i)
            made.repeats[i], text = kind, vary(made.rows[other], kind, rng, words)
        elif draw < 2 * half:
            prompt = vary(rng.choice(made.prompts), kind, rng, words)
            chosen.insert(rng.randrange(len(chosen)), prompt)
            made.contaminations[i], text = kind, " ".join(chosen)
        elif draw < 2 * half + share:
            # Not contaminated: it shares eight words in a row with a prompt, one short of nine.
            chosen.insert(1, " ".join(rng.choice(runs_of(rng.choice(made.prompts), 8))))
            text = " ".join(chosen)
        made.rows.append(text)
    return made


def runs_of(text, n):
    parts = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]


def write(made, folder, files=1):
    """Write rows as conversations over some files, and the prompts."""
    (folder / "rows").mkdir(parents=True)
    each = -(-len(made.rows) // files)
    for number in range(files):
        with (folder / "rows" / f"{number:03d}.jsonl").open("w", encoding="utf-8") as stream:
            for text in made.rows[number * each : (number + 1) * each]:
                half = text.index(" ", len(text) // 3)
                turns = [{"role": "user", "content": text[:half]}, {"role": "assistant", "content": text[half + 1 :]}]
                stream.write(json.dumps({"messages": turns}) + "\n")
    prompts = folder / "evaluation.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in made.prompts), encoding="utf-8")
    return str(folder / "rows"), str(prompts)


def table(found, planted, kinds=KINDS):
    """Recall of each kind and precision over all. `found` are the rows that were flagged."""
    lines = {}
    for kind in kinds:
        those = [i for i, k in planted.items() if k == kind]
        lines[kind] = len(those), sum(i in found for i in those) / len(those)
    return lines, len(found & planted.keys()) / max(1, len(found))
