"""Nano math: sums and differences, answered carefully (digit by digit, carries written out) or quickly (in one go).

Every worked answer is right. A small model can follow the careful way and can't yet do the quick one in its head, so
a mixture of both leaves reinforcement learning something true to find: working it out pays. Where one digit is added
or taken and nothing is carried, it can answer without thinking.
"""

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Split = Literal["sft", "rl", "test"]
Operator = Literal["+", "-"]
_OPERATORS: tuple[Operator, ...] = ("+", "-")
PHRASES = ("Compute ", "\n\\boxed{", "\\boxed{")
"""Texts that are one token each."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`left operator right`, both not negative and the result neither."""

    left: int
    operator: Operator
    right: int

    @property
    def text(self) -> str:
        """The problem as it is written."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def carries(self) -> bool:
        """Whether a digit of the answer depends on more than the digits above it."""
        left, right = (str(number).zfill(len(str(self.left))) for number in (self.left, self.right))
        digits = [(int(x), int(y)) for x, y in zip(left, right, strict=True)]
        return any(x + y > 9 if self.operator == "+" else x < y for x, y in digits)

    @property
    def canonical(self) -> str:
        """The problem's name: a sum has the same one both ways round."""
        low, high = sorted((self.left, self.right))
        return f"{low}{self.operator}{high}" if self.operator == "+" else self.text

    @property
    def split(self) -> Split:
        """Whose problem it is."""
        return split_of(self.canonical)


def split_of(canonical: str) -> Split:
    """Assign a problem to SFT (70 %), RL prompts (20 %) or the hold-out (10 %) by a hash of its canonical text."""
    part = int.from_bytes(hashlib.blake2b(canonical.encode(), digest_size=4).digest(), "big") % 10
    return "test" if part == 0 else "rl" if part < 3 else "sft"


def draw_problem(rng: Random, split: Split, digits: tuple[int, int]) -> Problem:
    """Draw a problem of a split; both numbers have n digits, n between digits[0] and digits[1]."""
    while True:
        n = rng.randint(*digits)
        left, right = (rng.randrange(10 ** (n - 1), 10**n) for _ in range(2))
        operator = rng.choice(_OPERATORS)
        if operator == "-":
            left, right = max(left, right), min(left, right)
        problem = Problem(left, operator, right)
        if problem.split == split:
            return problem


def draw_plain(rng: Random, split: Split) -> Problem:
    """Draw a problem of a split that one digit settles: three digits and one, nothing carried or borrowed."""
    while True:
        problem = Problem(rng.randrange(100, 1000), rng.choice(_OPERATORS), rng.randrange(1, 10))
        if problem.split == split and not problem.carries:
            return problem


def careful_steps(problem: Problem) -> str:
    """Work a problem out from the last digit on; the third number of a line is what the line before carries over.

    A sum's line gives carry and digit (7+8+0=15); a difference's line starts from 10 more if it has to borrow
    (17-8-0=9).
    """
    lines, carry = [], 0
    for i in range(len(str(max(problem.left, problem.right)))):
        x, y = problem.left // 10**i % 10, problem.right // 10**i % 10
        if problem.operator == "+":
            lines.append(f"{x}+{y}+{carry}={x + y + carry:02d}")
            carry = (x + y + carry) // 10
        else:
            borrows = x < y + carry
            lines.append(f"{x + 10 * borrows}-{y}-{carry}={x + 10 * borrows - y - carry}")
            carry = int(borrows)
    return "\n".join(lines)


def math_prompt(problem: Problem) -> dict[str, Any]:
    """Make a prompt row: the question, and the answer for the verifier."""
    return {"messages": [{"role": "user", "content": f"Compute {problem.text}."}], "answer": str(problem.answer)}


def math_at_once(problem: Problem) -> dict[str, Any]:
    """Make a training conversation whose reply doesn't think."""
    reply = {"role": "assistant", "content": f"\\boxed{{{problem.answer}}}"}
    return {"messages": [*math_prompt(problem)["messages"], reply]}


def math_sample(problem: Problem, rng: Random, quick_fraction: float) -> dict[str, Any]:
    """Make a training conversation whose reply thinks, carefully or quickly."""
    quick = rng.random() < quick_fraction
    thought = f"{problem.text}={problem.answer}" if quick else careful_steps(problem)
    reply = f"<think>\n{thought}\n</think>\n\\boxed{{{problem.answer}}}"
    question = math_prompt(problem)["messages"][0]
    return {"messages": [question, {"role": "assistant", "content": reply}]}
