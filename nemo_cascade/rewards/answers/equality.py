"""Tell whether two answers are equal, whatever they are: the rules of `MathVerifier`, part by part."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

from mpmath import mp

from nemo_cascade.rewards.answers.equal_values import (
    difference,
    proportion,
    same_value,
    substituted,
    value_at,
)
from nemo_cascade.rewards.answers.node import Node, names, number
from nemo_cascade.rewards.answers.regions import listed_integers, same_region
from nemo_cascade.rewards.answers.values import exact
from nemo_cascade.rewards.answers.words import MULTIPLIERS, NO_UNITS, unit_name

_COLLECTIONS = ("list", "set", "tuple")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_MOST_ITEMS = 200
_MOST_SIGNS = 4  # independent plus-minus signs of one answer
_CHOICES, _CIRCLED = frozenset("ABCDEFGH"), frozenset("①②③④⑤⑥⑦⑧⑨⑩")
_LONGEST_PRODUCT = 3  # letters that may be a product in any order; more of them are a word


def same_answer(gold: Node, answer: Node) -> bool:
    """Tell whether an answer equals the reference."""
    gold, answer = _written_out(gold), _written_out(answer)
    return _same(gold, answer)


def _same(gold: Node, answer: Node) -> bool:
    if gold == answer:
        return True
    for first, second in ((gold, answer), (answer, gold)):
        one = second.kind not in (*_COLLECTIONS, "chain", "phrase")
        if one and first.kind == "list" and first.value is not None and _same(number(first.value), second):
            return True  # 1,22 may be 1.22
        if first.kind == "num" and first.parts and second.kind in ("list", "set", "num") and second.parts:
            return _matched(first.parts, second.parts)  # 48,384 may be two numbers
    gold, answer = _plain_form(gold, answer), _plain_form(answer, gold)
    if _value_of_sentence(gold) is not None or _value_of_sentence(answer) is not None:
        return _same(_value_of_sentence(gold) or gold, _value_of_sentence(answer) or answer)
    if "where" in (gold.kind, answer.kind):
        return _same_family(gold, answer)
    if "unit" in (gold.kind, answer.kind):
        return _same_quantity(gold, answer)
    if "pct" in (gold.kind, answer.kind) and "chain" not in (gold.kind, answer.kind):
        return _same_share(gold, answer)
    same_set = same_region(gold, answer)
    if same_set is not None:
        return same_set
    if "chain" in (gold.kind, answer.kind):
        return _same_relation(gold, answer)
    if {gold.kind, answer.kind} == {"tuple", "matrix"}:
        return _same_vector(gold, answer)
    if gold.kind in ("phrase", "cases", "row") or answer.kind in ("phrase", "cases", "row"):
        return _same_parts(gold, answer)
    if gold.kind in _COLLECTIONS or answer.kind in _COLLECTIONS:
        return _same_collection(gold, answer)
    if gold.kind in ("union", "meet", "minus", "builder") or answer.kind in ("union", "meet", "minus", "builder"):
        return gold.kind == answer.kind and all(_same(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))
    if gold.kind == "ratio" and answer.kind == "ratio" and len(gold.parts) == len(answer.parts) > 2:
        pairs = list(zip(gold.parts, answer.parts, strict=True))
        return all(same_value(Node("mul", (a, pairs[0][1])), Node("mul", (b, pairs[0][0]))) for a, b in pairs)
    return _same_words(gold, answer) or _same_expression(gold, answer)


def _value_of_sentence(node: Node) -> Node | None:
    """Return what a sentence such as `the answer is 42` says, or `Answer: 42`; None if a node is no such sentence."""
    if node.kind == "ratio" and len(node.parts) == 2 and node.parts[0].kind == "word" and node.parts[1].kind != "word":
        return node.parts[1]
    if node.kind != "phrase" or len(node.parts) != 2 or node.parts[0].kind != "word":
        return None
    words = node.parts[0].text.casefold().split()
    if not words:  # a sign of a script that writes no words
        return None
    says = words[-1] in ("is", "are", "answer", "equals") or words[-1][-1] in "为是"
    return node.parts[1] if says and not (NO_UNITS - {"is", "are"}).intersection(words) else None


def _same_expression(gold: Node, answer: Node) -> bool:
    for node in (gold, answer):
        if node.kind == "word" or (node.kind == "letters" and len(node.text) > _LONGEST_PRODUCT):
            return False
    infinite = [_infinity(node) for node in (gold, answer)]
    if any(infinite):
        return infinite[0] == infinite[1]
    return same_value(gold, answer)


def _infinity(node: Node) -> int:
    if node.kind == "neg":
        return -_infinity(node.parts[0])
    return int(node.kind == "const" and node.text == "infty")


def _text(node: Node) -> str | None:
    """Return the word that a node may be, None if it is none."""
    if node.kind in ("word", "letters", "sym") or (node.kind == "const" and node.text in "ei"):
        return " ".join(node.text.casefold().replace(".", "").replace("-", " ").split())
    return None


def _same_words(gold: Node, answer: Node) -> bool:
    first, second = _text(gold), _text(answer)
    return first is not None and first == second


def _same_parts(gold: Node, answer: Node) -> bool:
    if gold.kind != answer.kind or len(gold.parts) != len(answer.parts):
        return False
    if gold.kind == "cases":
        return _matched(gold.parts, answer.parts)
    return all(_same(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))


# -- quantities ----------------------------------------------------------------------------------------------------


def _same_quantity(gold: Node, answer: Node) -> bool:
    """Compare what stands before the units; two known units must be the same."""
    if gold.kind == answer.kind == "unit":
        first, second = unit_name(gold.text), unit_name(answer.text)
        if first is not None and second is not None and first != second:
            return False
    if "chain" in (gold.kind, answer.kind):
        return _same_relation(gold, answer)
    scaled = [_scaled(node) for node in (gold, answer)]
    if any(scaled) and _same(scaled[0] or gold, scaled[1] or answer):  # 5 million is 5,000,000
        return True
    return _same(*(node.parts[0] if node.kind == "unit" else node for node in (gold, answer)))


def _scaled(node: Node) -> Node | None:
    """Return a quantity with the multiplier among the first words of its unit: `5 million dollars`, `$5 million`."""
    words = node.text.split()
    place = next((place for place, word in enumerate(words[:2]) if word.casefold() in MULTIPLIERS), None)
    if node.kind != "unit" or place is None:
        return None
    inside = Node("mul", (node.parts[0], number(MULTIPLIERS[words.pop(place).casefold()])))
    return Node("unit", (inside,), " ".join(words)) if words else inside


def _plain_form(node: Node, other: Node) -> Node:
    """Return an answer in the form that is compared: a point without its name, `4 to 3` as a ratio, quantities as a
    list, a bounded set of integers by its members; anything else as it is.

    Args:
        node: an answer.
        other: what it is compared with.
    """
    if node.kind == "builder":
        return listed_integers(node) or node
    if node.kind == "phrase":
        if len(node.parts) == 3 and node.parts[1] == Node("word", text="to"):
            return Node("ratio", node.parts[::2])
        return _quantities(node)
    pair = node.parts if node.kind == "call" else node.parts[-1].parts if node.kind == "mul" else ()
    named = (node.kind == "call" and node.text.isupper()) or (node.kind == "mul" and _is_point(node))
    if not named or len(pair) < 2 or other.kind == node.kind:
        return node
    if other.kind not in (*_COLLECTIONS, "chain") and node.parts[0] == Node("sym", text="C"):
        return Node("call", pair, "binom")
    return Node("tuple", pair, "()") if other.kind in ("tuple", "list", "chain") else node


def _is_point(node: Node) -> bool:
    r"""Tell whether a node is a point by its name and its coordinates: `A(1, 2)`."""
    name, place = node.parts[0], node.parts[-1]
    return len(node.parts) == 2 and name.kind == "sym" and name.text[0].isupper() and place.kind == "tuple"


def _quantities(node: Node) -> Node:
    """Return `3 hours 20 minutes` as a list of quantities, anything else as it is."""
    numbers, words = node.parts[::2], node.parts[1::2]
    if node.kind != "phrase" or len(numbers) != len(words) or any(part.kind != "word" for part in words):
        return node
    if any(part.kind != "num" for part in numbers) or any(unit_name(word.text) is None for word in words):
        return node
    return Node("list", tuple(Node("unit", (n,), word.text) for n, word in zip(numbers, words, strict=True)), "and")


def _same_share(gold: Node, answer: Node) -> bool:
    """Compare percentages; `50%` is 50 and 0.5, for references are written either way."""
    inside = [node.parts[0] if node.kind == "pct" else node for node in (gold, answer)]
    if _same(inside[0], inside[1]):
        return True
    if gold.kind == answer.kind:
        return False
    hundredth = [Node("div", (node.parts[0], number(100))) if node.kind == "pct" else node for node in (gold, answer)]
    return _same(hundredth[0], hundredth[1])


# -- several answers -----------------------------------------------------------------------------------------------


def _same_collection(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind == "tuple":
        same_brackets = gold.text == answer.text or len(gold.parts) > 2
        return same_brackets and _in_order(gold.parts, answer.parts)
    if "tuple" in (gold.kind, answer.kind):
        other = answer if gold.kind == "tuple" else gold
        pair = gold if gold.kind == "tuple" else answer
        if other.kind == "set" and len(other.parts) == 1:
            return _same(other.parts[0], pair)
        if other.kind != "list" or (pair.text != "()" and len(pair.parts) == 2):
            return False
        return _in_order(gold.parts, answer.parts)
    first, second = (node.parts if node.kind in _COLLECTIONS else _choices(node) for node in (gold, answer))
    labels = [{part.text.casefold() for part in parts if part.kind == "unit"} for parts in (first, second)]
    if labels[0] == labels[1] and len(labels[0]) == len(first) == len(second) > 1:  # 4 red and 3 blue
        by_label = [sorted(parts, key=lambda part: part.text.casefold()) for parts in (first, second)]
        return _in_order(by_label[0], by_label[1])
    return _matched(_distinct(first), _distinct(second))


def _choices(node: Node) -> tuple[Node, ...]:
    """Return the letters or circled numbers of several choices, `ABD`; anything else as one item."""
    if node.kind == "letters" and set(node.text) <= _CHOICES and list(node.text) == sorted(set(node.text)):
        return tuple(Node("sym", text=letter) for letter in node.text)
    if node.kind == "word" and len(node.text) > 1 and set(node.text) <= _CIRCLED:
        return tuple(Node("word", text=number) for number in node.text)
    return (node,)


def _same_vector(gold: Node, answer: Node) -> bool:
    """Compare a matrix with a tuple: a row or a column with its entries in order, any matrix with a tuple of rows."""
    matrix, other = (gold, answer) if gold.kind == "matrix" else (answer, gold)
    if all(part.kind == "tuple" for part in other.parts):
        rows = [part.parts for part in other.parts]
    else:
        rows = [other.parts] if len(matrix.parts) == 1 else [(part,) for part in other.parts]
    return same_value(matrix, Node("matrix", tuple(Node("row", row) for row in rows)))


def _in_order(first: Sequence[Node], second: Sequence[Node]) -> bool:
    return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))


def _matched(first: Sequence[Node], second: Sequence[Node]) -> bool:
    """Tell whether each item of one has its own equal in the other."""
    if len(first) != len(second) or len(first) > _MOST_ITEMS:
        return False
    left = list(second)
    for item in first:
        match = next((place for place, other in enumerate(left) if _same(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _distinct(items: Sequence[Node]) -> list[Node]:
    """Return items without those that repeat an earlier one as it is written."""
    return list(dict.fromkeys(items))


def _written_out(node: Node) -> Node:
    r"""Return an answer with each plus-minus sign written out, as a list."""
    if not any(part.kind == "pm" for part in node.walk()):
        return node
    if node.kind in ("list", "set"):
        items = [variant for part in node.parts for variant in _variants(part)]
        return Node(node.kind, tuple(items), node.text)
    if node.kind == "where":
        return Node("where", (_written_out(node.parts[0]), *node.parts[1:]))
    variants = _variants(node)
    return variants[0] if len(variants) == 1 else Node("list", tuple(variants), "or")


def _variants(node: Node) -> list[Node]:
    signs = [part.text for part in node.walk() if part.kind == "pm"]
    if not signs or len(signs) > _MOST_SIGNS:
        return [node]
    coupled = "mp" in signs  # a \pm b \mp c
    choices = [(1,) * len(signs), (-1,) * len(signs)] if coupled else list(product((1, -1), repeat=len(signs)))
    return [_with_signs(node, iter(choice)) for choice in choices]


def _with_signs(node: Node, signs: Iterator[int]) -> Node:
    if node.kind == "pm":
        sign = next(signs) * (-1 if node.text == "mp" else 1)
        parts = tuple(_with_signs(part, signs) for part in node.parts)
        last = parts[-1] if sign > 0 else Node("neg", (parts[-1],))
        return last if len(parts) == 1 else Node("add", (parts[0], last))
    if not node.parts:
        return node
    return Node(node.kind, tuple(_with_signs(part, signs) for part in node.parts), node.text, node.value)


# -- relations -----------------------------------------------------------------------------------------------------


def _is_name(node: Node) -> bool:
    """Tell whether the left side of an equation only names what its right side is."""
    if node.kind in ("sym", "letters", "word", "const"):
        return node.kind != "const" or node.text in "eiNZQRC"
    if node.kind == "call":
        angle = all(part.kind == "sym" and part.text.startswith("angle ") for part in node.parts)
        return (
            node.text[0] in "fgFGP" or node.text == "circ" or angle or (node.text == "abs" and _is_name(node.parts[0]))
        )
    if node.kind in ("mul", "div", "ratio", "tuple", "list", "matrix", "row"):
        return all(_is_name(part) or (part.kind == "tuple") for part in node.parts)
    return False


def _cut(chain: Node) -> Node:
    """Return a relation without approximations: the name and its value, the exact value before its decimals."""
    signs, parts = chain.text.split(), list(chain.parts)
    if "~" not in signs:
        return chain
    place = signs.index("~")
    if place == 0 and _is_name(parts[0]):
        return Node("chain", tuple(parts), " ".join("=" if sign == "~" else sign for sign in signs))
    signs, parts = signs[:place], parts[: place + 1]
    return parts[0] if not signs else Node("chain", tuple(parts), " ".join(signs))


def _reduced(chain: Node, is_gold: bool) -> Node | None:
    """Return what an equation says that its left side is, None if it isn't of that kind."""
    signs = set(chain.text.split())
    first, last = chain.parts[0], chain.parts[-1]
    if signs == {"in"}:
        return last if last.kind in _COLLECTIONS or last.kind in ("union", "const") else None
    if signs != {"="}:
        return None
    if not names(first) and not _is_name(first):
        if len(chain.parts) == 2 and _is_name(last):  # 2 = x
            return first
        return last if all(same_value(part, last) for part in chain.parts[:-1]) else None
    if _is_name(first) or any(part.kind == "big" for part in first.walk()):
        return last
    # What was asked for may be a sum, `a + b = 7`; but 0 on the right makes an equation that is left to be solved.
    return None if is_gold or exact(last) == 0 else last


def _same_relation(gold: Node, answer: Node) -> bool:
    gold = _cut(gold) if gold.kind == "chain" else gold
    answer = _cut(answer) if answer.kind == "chain" else answer
    if gold.kind != "chain" or answer.kind != "chain":
        if gold.kind != "chain" and answer.kind != "chain":
            return _same(gold, answer)
        chain, other = (gold, answer) if gold.kind == "chain" else (answer, gold)
        if other.kind == "list" and _is_equation(chain) and all(part.kind == "chain" for part in other.parts):
            sides = [side.parts if side.kind == "tuple" else () for side in chain.parts]
            if len(sides) == 2 and len(sides[0]) == len(sides[1]) > 1:  # (x, y) = (1, 2)
                pairs = list(zip(*sides, strict=True))
            else:
                pairs = list(pairwise(chain.parts))
            parts = tuple(Node("chain", pair, "=") for pair in pairs)
            return len(parts) == len(other.parts) > 1 and _matched(parts, other.parts)
        value = _reduced(chain, is_gold=chain is gold)
        if value is None:
            return False
        return _same(value, answer) if chain is gold else _same(gold, value)
    if _is_equation(gold) and _is_equation(answer):
        return _same_equation(gold, answer)
    return _same_chain(gold, answer)


def _is_equation(chain: Node) -> bool:
    return set(chain.text.split()) == {"="}


def _same_equation(gold: Node, answer: Node) -> bool:
    named = _is_name(gold.parts[0]) and _is_name(answer.parts[0]) and _same_name(gold.parts[0], answer.parts[0])
    if named and _same(gold.parts[-1], answer.parts[-1]):
        return True
    if len(gold.parts) != len(answer.parts):
        return False
    if len(gold.parts) == 2:
        sides = [difference(*(_bare(part) for part in chain.parts)) for chain in (gold, answer)]
        return proportion(sides[0], sides[1]) != 0
    return all(_same(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))


def _same_name(first: Node, second: Node) -> bool:
    """Tell whether two left sides name the same; y is any function's value."""
    return _same(first, second) or {(n.kind, n.text if n.kind == "sym" else "") for n in (first, second)} == {
        ("sym", "y"),
        ("call", ""),
    }


def _bare(node: Node) -> Node:
    return node.parts[0] if node.kind == "unit" else node


def _same_chain(gold: Node, answer: Node) -> bool:
    """Compare relations side by side, read from either end; two sides also by what they differ by."""
    signs, other = gold.text.split(), answer.text.split()
    flipped = [_FLIPPED.get(sign, sign) for sign in reversed(other)]
    for parts, readings in ((answer.parts, other), (answer.parts[::-1], flipped)):
        pairs = zip(gold.parts, parts, strict=False)
        if signs == readings and all(_same_side(a, b) for a, b in pairs):
            return True
    if len(signs) == 1 and len(other) == 1 and signs[0] in _FLIPPED:
        sign = proportion(difference(*gold.parts), difference(*answer.parts))
        return sign != 0 and other[0] == (signs[0] if sign > 0 or signs[0] in ("=", "!=") else _FLIPPED[signs[0]])
    return False


def _same_side(first: Node, second: Node) -> bool:
    """Compare two sides; of a remainder the modulus, too."""
    moduli = [node.kind == "call" and node.text == "mod" for node in (first, second)]
    if any(moduli):
        return all(moduli) and same_value(first, second) and same_value(first.parts[1], second.parts[1])
    return _same(first, second)


# -- families with a parameter -------------------------------------------------------------------------------------


def _same_family(gold: Node, answer: Node) -> bool:
    r"""Compare answers that hold for every integer, such as `\pi/4 + k\pi, k \in \mathbb{Z}`, whatever it is called."""
    bodies = [node.parts[0] if node.kind == "where" else node for node in (gold, answer)]
    conditions = [node.parts[1:] if node.kind == "where" else () for node in (gold, answer)]
    if all(conditions) and {c.parts[1].text for c in conditions[0]} != {c.parts[1].text for c in conditions[1]}:
        return False
    parameters = [_parameter(body, condition) for body, condition in zip(bodies, conditions, strict=True)]
    name = parameters[0] or parameters[1]
    if name is None:
        return _same(bodies[0], bodies[1])
    for place in (0, 1):
        own = parameters[place]
        if own is None:
            free = names(bodies[place]) - names(bodies[1 - place])
            own = next(iter(free)) if len(free) == 1 else name
        bodies[place] = substituted(bodies[place], {own: "n"})
    every = {c.parts[1].text for condition in conditions for c in condition} == {"Z"}
    items = [_written_out(body) for body in bodies]
    first, second = (list(item.parts) if item.kind in ("list", "set") else [item] for item in items)
    if len(first) != len(second) or len(first) > _MOST_ITEMS:
        return False
    for item in first:
        match = next((o for o in second if _same(item, o) or (every and _same_shifted(item, o))), None)
        if match is None:
            return False
        second.remove(match)
    return True


def _parameter(body: Node, conditions: Sequence[Node]) -> str | None:
    used = names(body)
    return next((c.parts[0].text for c in conditions if c.parts[0].text in used), None)


def _same_shifted(first: Node, second: Node) -> bool:
    """Tell whether a + b n and c + d n are the same numbers, n running through the integers."""
    sides = [_reduced(node, is_gold=False) if node.kind == "chain" else node for node in (first, second)]
    lines = []
    for side in sides:
        if side is None or names(side) - {"n"}:
            return False
        values = [value_at(side, {"n": mp.mpf(n)}) for n in range(3)]
        if any(value is None for value in values):
            return False
        with mp.workdps(50):
            if abs(values[0] - 2 * values[1] + values[2]) > mp.mpf(10) ** -30:
                return False
            lines.append((values[0], values[1] - values[0]))
    with mp.workdps(50):
        (start, step), (other, stride) = lines
        if not step or abs(abs(step) - abs(stride)) > mp.mpf(10) ** -30 * abs(step):
            return False
        turns = (start - other) / step
        return bool(abs(turns - mp.nint(turns)) < mp.mpf(10) ** -30 * max(1, abs(turns)))
