r"""Read an answer: lists, sets, intervals, relations, quantities with units, words, and phrases of all of them."""

from fractions import Fraction
from itertools import pairwise

from nemo_cascade.rewards.answers.build import in_base
from nemo_cascade.rewards.answers.expression import ExpressionParser
from nemo_cascade.rewards.answers.node import Node, Unreadable
from nemo_cascade.rewards.answers.tokens import Token, Tokenizer
from nemo_cascade.rewards.answers.words import CONDITIONS, NO_UNITS, PLAIN_UNITS, UNIT_NAMES

_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "==", "~", "in", "notin", "subset", "to", "not")
_OPPOSITE = {"=": "!=", "in": "notin"}
_SET_SIGNS = {"cup": "union", "cap": "meet", "setminus": "minus"}
_LARGEST_WHOLE = 10**12  # before a decimal comma
_TALLEST = 80  # operations on operations, so that no walk through them is deep
_MATRICES = ("pmatrix", "bmatrix", "vmatrix", "Vmatrix", "matrix", "Bmatrix", "smallmatrix", "array")
_CONDITION_WORDS, _INTEGERS = frozenset({"where", "for", "with"}), frozenset({"integer", "integers"})
_CURRENCY_WORDS = frozenset({"USD", "Rs", "INR", "EUR", "RMB", "GBP", "US"})


def read_answer(latex: str) -> Node:
    """Read an answer of plain look.

    Raises:
        Unreadable: it is no answer that is known how to read.
    """
    tokens = Tokenizer(latex).tokens()
    if not tokens:
        raise Unreadable("nothing")
    node = _read(tokens, 0)
    if node.height() > _TALLEST:
        raise Unreadable("too many operations on one another")
    return node


def _read(tokens: list[Token], depth: int) -> Node:
    parser = AnswerParser(list(tokens), depth)
    try:
        node = parser.answer()
        if parser.at < len(tokens):
            raise Unreadable(f"{parser.peek().text} is left over")
    except Unreadable:
        return _phrase(tokens, depth)
    return node


def _phrase(tokens: list[Token], depth: int) -> Node:
    """Read words and answers by turns, such as `7 if n = 1, 8 otherwise`.

    Raises:
        Unreadable: there are no words, or what is between them can't be read.
    """
    if not any(token.kind == "word" for token in tokens):
        raise Unreadable("neither an answer nor words")
    tokens = _with_plain_words(tokens)
    parts: list[Node] = []
    run: list[Token] = []
    words: list[str] = []
    for token in [*tokens, Token("end", "")]:
        if token.kind in ("word", "end") and run:
            if inside := _trimmed(run):
                if any(part.kind == "word" for part in inside):
                    raise Unreadable("words in one another")
                parser = AnswerParser(list(inside), depth)
                parts.append(parser.answer())
                if parser.at < len(inside):
                    raise Unreadable(f"{parser.peek().text} is left over")
            run = []
        if token.kind == "word" or (words and not run and token.text == "*"):
            words.append(token.text)
        elif token.kind != "end":
            if words and token.kind != "sep":
                parts.append(Node("word", text=" ".join(words)))
                words = []
            run.append(token)
    if words:
        parts.append(Node("word", text=" ".join(words)))
    return parts[0] if len(parts) == 1 else Node("phrase", tuple(parts))


def _with_plain_words(tokens: list[Token]) -> list[Token]:
    """Return tokens where runs of letters beside words are words, too."""
    for direction in (1, -1):
        result: list[Token] = []
        for token in tokens[::direction]:
            beside = bool(result) and result[-1].kind == "word" and token.kind == "letters"
            result.append(Token("word", token.text, token.spaced) if beside else token)
        tokens = result[::direction]
    return tokens


def _trimmed(tokens: list[Token]) -> list[Token]:
    """Return tokens without the separators and colons at their ends."""
    start, end = 0, len(tokens)
    while start < end and (tokens[start].kind == "sep" or tokens[start].text == ":"):
        start += 1
    while end > start and (tokens[end - 1].kind == "sep" or tokens[end - 1].text == ":"):
        end -= 1
    return tokens[start:end]


class AnswerParser(ExpressionParser):
    """Reads one answer from its tokens."""

    def answer(self) -> Node:
        """Read items up to a closing bracket or the end: one, or a list."""
        items, separators = list[Node](), list[str]()
        literals = list[str]()
        while True:
            while self.peek().kind == "sep" or self.sees("\\\\", "iff"):
                token = self.take()
                if items and len(separators) < len(items):
                    separators.append(token.text if token.kind == "sep" else ",")
                elif items and token.text in ("and", "or"):
                    separators[-1] = token.text
            if self.at_end_of_item() and not (not items and self.sees("|", "||")):
                break
            if len(items) > len(separators):
                raise Unreadable("two items without a separator")
            literals.append(self.peek().text)
            items.append(self._item())
        if not items:
            raise Unreadable("nothing")
        if len(items) == 1 and not self.conditions:
            return items[0]
        return self._gathered(items, separators[: len(items) - 1], literals)

    def _gathered(self, items: list[Node], separators: list[str], literals: list[str]) -> Node:
        conditions, self.conditions = self.conditions, []
        items = _each_unequal(items)
        main = [item for item in items if not _is_membership(item)]
        if main and (len(main) < len(items) or conditions):
            conditions += [item for item in items if _is_membership(item)]
            if len(main) < len(items):
                separators = [","] * (len(main) - 1)
            body = main[0] if len(main) == 1 else Node("list", tuple(main), _separator(separators))
            if any(_variable(condition) in _names(body) for condition in conditions):
                return Node("where", (body, *conditions))
            return Node("list", tuple(items), _separator(separators))
        if ";" in separators and any(sign != ";" for sign in separators):
            groups, group = list[Node](), [items[0]]
            for sign, item in zip(separators, items[1:], strict=True):
                if sign == ";":
                    groups.append(_list(group))
                    group = []
                group.append(item)
            return Node("list", (*groups, _list(group)), ";")
        if (grouped := _grouped_solutions(items, separators)) is not None:
            return grouped
        return Node("list", tuple(items), _separator(separators), _decimal_comma(items, separators, literals))

    def _item(self) -> Node:
        """Read one item: a relation or expression, its unit, a condition behind it."""
        start = self.peek()
        if start.kind == "word" and start.text.casefold() in _CONDITION_WORDS:
            return self._condition()
        if (
            start.kind in ("word", "letters")
            and start.text.strip(".") in _CURRENCY_WORDS
            and self.peek(1).kind == "num"
        ):
            self.take()
            return Node("unit", (self._relation(),), start.text)
        if self.sees("~", "=", ":"):  # about 5 is 5
            self.take()
        node = self._relation()
        if self.peek().kind == "word" and self.peek().text.casefold() in _CONDITION_WORDS:
            self.conditions.append(self._condition())
        node = self._with_unit(node)
        if not self.at_end_of_item():
            raise Unreadable(f"{self.peek().text} is left over")
        return node

    def _condition(self) -> Node:
        r"""Read what numbers a variable stands for: `where n \in \mathbb{Z}`, `for any integer n`."""
        words = set[str]()
        while self.peek().kind == "word":
            words.add(self.take().text.casefold())
        if words & _INTEGERS and self.peek().kind == "letter":
            return Node("chain", (Node("sym", text=self.take().text), Node("const", text="Z")), "in")
        node = self._relation()
        while self.peek().kind == "word":
            words.add(self.take().text.casefold())
        if node.kind == "sym" and words & _INTEGERS:
            return Node("chain", (node, Node("const", text="Z")), "in")
        if not _is_membership(node) or words - _CONDITION_WORDS - _INTEGERS - {
            "is",
            "an",
            "any",
            "all",
            "every",
            "each",
        }:
            raise Unreadable("a condition of another kind")
        return node

    def _with_unit(self, node: Node) -> Node:
        """Read the unit behind a quantity."""
        letter = self.peek()
        if node.kind == "deg" and letter.kind == "letter" and letter.text in "CF":
            self.take()
            return Node("unit", node.parts, f"degree {letter.text}")
        if self.sees("$"):
            return self._with_unit(Node("unit", (node,), self.take().literal or "dollar"))
        if (base := self._base_in_words(node)) is not None:
            return base
        opened = self.sees("(") and self.opens_words()
        if opened:
            self.take()
            letter = self.peek()
        if letter.kind == "letter" and letter.text == "Omega":
            self.take()
            return Node("unit", (node,), "ohm")
        if not opened and (letter.kind != "word" or node.kind == "word"):
            return node
        texts = self._unit_words()
        if opened:
            self.expect(")")
        if NO_UNITS & {text.casefold() for text in texts} and texts != ["times"]:
            raise Unreadable("words that are no unit")
        return _unit(node, _unit_text(texts))

    def _base_in_words(self, node: Node) -> Node | None:
        """Read a base in words behind the digits, `204 base 5` or `204 (base 5)`; None where there is none."""
        start = self.at
        opened, words = self.accept("("), list[str]()
        while self.peek().kind in ("word", "letters") and self.peek().text.casefold() in ("in", "base"):
            words.append(self.take().text.casefold())
        if node.kind == "num" and "base" in words and self.peek().kind in ("num", "word"):
            base = self.take().text
            if not opened or self.accept(")"):
                return in_base(node.text or str(node.value), base)
        self.at = start
        return None

    def _unit_words(self) -> list[str]:
        """Take in words, with the powers and divisions among them, up to the end of the item."""
        texts = list[str]()
        while not self.at_end_of_item():
            token = self.take()
            if token.kind == "word":
                texts.append(token.text)
            elif token.kind == "sign" and token.text == "^":
                braced = self.accept("{")
                sign = "-" if self.accept("-") else ""
                texts += ["^", sign + self.take().text]
                if braced:
                    self.expect("}")
            elif token.kind == "letters" and (len(token.text) > 2 or token.text in PLAIN_UNITS):
                texts.append(token.text)
            elif token.kind == "sign" and token.text in ("/", "*", "-", "(", ")", "$"):
                texts.append(token.text if token.text in "/*-" else "")
            elif token.kind in ("letter", "letters") and texts:
                texts.append(token.text)
            elif token.kind == "num" and texts and token.text in ("2", "3") and not token.spaced:
                texts += ["^", token.text]  # cm2
            else:
                raise Unreadable(f"{token.text} in a unit")
        return texts

    def _relation(self) -> Node:
        nameless = self.sees("<", ">", "<=", ">=", "!=")  # `> 5`
        operands, signs = [Node("sym") if nameless else self._sets()], list[str]()
        while self.sees(*_RELATIONS):
            sign = self.take().text
            if sign == "not":
                sign = _OPPOSITE.get(self.take().text, "?")
            signs.append(sign)
            operands.append(self._sets())
        return operands[0] if not signs else Node("chain", tuple(operands), " ".join(signs))

    def _sets(self) -> Node:
        left = self._ratio()
        while self.sees("cup", "cap", "setminus"):
            sign = self.take().text
            left = Node(_SET_SIGNS[sign], (left, self._ratio()))
        return left

    def _ratio(self) -> Node:
        parts = [_without_sets(self.sum())]
        while not self.in_set[-1] and self.accept(":"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node("ratio", tuple(parts))

    def environment(self, name: str) -> Node:
        r"""Read a matrix, a distinction of cases, or aligned equations."""
        if name == "array" and self.accept("{"):
            while not self.accept("}"):
                if self.take().kind == "end":
                    raise Unreadable("an array without an end")
        if name in _MATRICES:
            return self._matrix(name)
        if name in ("cases", "dcases", "rcases"):
            rows = self._rows()
            if all(len(row) == 1 for row in rows):
                return _list([row[0] for row in rows])
            return Node("cases", tuple(Node("row", tuple(row)) for row in rows))
        return self._aligned()

    def _matrix(self, name: str) -> Node:
        node = Node("matrix", tuple(Node("row", tuple(row)) for row in self._rows()))
        return Node("call", (node,), "det") if name == "vmatrix" else node

    def _rows(self) -> list[list[Node]]:
        rows: list[list[Node]] = [[]]
        while True:
            token = self.peek()
            if token.kind == "end":
                raise Unreadable("an environment that never ends")
            if token.kind == "env" and token.text.startswith("end"):
                self.take()
                return [row for row in rows if row]
            if self.accept("\\\\"):
                rows.append([])
            elif (
                token.kind == "sep"
                or (token.kind == "word" and token.text in CONDITIONS - {"otherwise"})
                or self.accept("&")
            ):
                self.at += token.kind in ("sep", "word")
            else:
                rows[-1].append(self._item())

    def _aligned(self) -> Node:
        """Read lines that go on with one another or are items of a list."""
        end, depth = self.at, 1
        while depth:
            if end == len(self.tokens):
                raise Unreadable("an environment that never ends")
            if self.tokens[end].kind == "env":
                depth += 1 if self.tokens[end].text.startswith("begin") else -1
            end += 1
        end -= 1
        inside = [token for token in self.tokens[self.at : end] if token.text != "&" or token.kind != "sign"]
        lines: list[Token] = []
        for place, token in enumerate(inside):
            if token.text == "\\\\" and token.kind == "sign":
                following = inside[place + 1] if place + 1 < len(inside) else Token("sep", ",")
                if following.kind == "sign" and following.text in (*_RELATIONS, "+", "-"):
                    continue
                token = Token("sep", ",")
            lines.append(token)
        self.at = end + 1
        self.deeper()
        node = _read(_trimmed(lines), self.depth)
        self.depth -= 1
        return node


def _without_sets(node: Node) -> Node:
    r"""Return `\mathbb{R} - \{2\}` as a difference of sets, any other sum as it is."""
    if node.kind != "add" or node.parts[0].kind not in ("const", "set", "tuple", "builder"):
        return node
    left = node.parts[0]
    for part in node.parts[1:]:
        if part.kind != "neg" or part.parts[0].kind not in ("set", "tuple", "builder"):
            return node
        left = Node("minus", (left, part.parts[0]))
    return left


def _each_unequal(items: list[Node]) -> list[Node]:
    r"""Return `x \ne 1, 2` as an inequality for each number."""
    first = items[0]
    if first.kind != "chain" or first.text != "!=" or any(item.kind not in ("num", "neg", "div") for item in items[1:]):
        return items
    return [first, *(Node("chain", (first.parts[0], item), "!=") for item in items[1:])]


def _decimal_comma(items: list[Node], separators: list[str], literals: list[str]) -> Fraction | None:
    """Return the number that `1,22` may be, None where the comma can only separate."""
    if separators != [","] or not literals[1].isdigit():
        return None
    negative = items[0].kind == "neg"
    whole, decimals = items[0].parts[0] if negative else items[0], items[1]
    if any(item.kind != "num" or item.value is None or item.value.denominator != 1 for item in (whole, decimals)):
        return None
    assert whole.value is not None
    if whole.value >= _LARGEST_WHOLE or (len(literals[1]) == 3 and whole.value):
        return None
    value = Fraction(f"{whole.value}.{literals[1]}")
    return -value if negative else value


def _separator(separators: list[str]) -> str:
    for sign in ("or", "and", ";"):
        if sign in separators:
            return sign
    return ","


def _grouped_solutions(items: list[Node], separators: list[str]) -> Node | None:
    """Return `p = 5, q = 2 and p = 7, q = 2` as a list of lists, None where the names don't come again in order."""
    turns = [place + 1 for place, sign in enumerate(separators) if sign in ("and", "or")]
    if not turns or "," not in separators or any(item.kind != "chain" for item in items):
        return None
    bounds = [0, *turns, len(items)]
    groups = [items[start:end] for start, end in pairwise(bounds)]
    if any([item.parts[0] for item in group] != [item.parts[0] for item in groups[0]] for group in groups):
        return None
    return Node("list", tuple(_list(group) for group in groups), ";")


def _list(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else Node("list", tuple(items), ",")


def _unit_text(texts: list[str]) -> str:
    text = " ".join(texts)
    for sign in ("^", "/", "*", "-"):
        text = text.replace(f" {sign}", sign).replace(f"{sign} ", sign)
    return " ".join(text.split())


def _unit(node: Node, text: str) -> Node:
    """Put a unit around a quantity; around the last operand of a relation."""
    if node.kind == "chain":
        return Node("chain", (*node.parts[:-1], Node("unit", (node.parts[-1],), text)), node.text)
    if node.kind == "unit":  # $5 dollars; 5$ per hour
        return node if text in UNIT_NAMES else Node("unit", node.parts, f"{node.text} {text}")
    return Node("unit", (node,), text)


def _is_membership(node: Node) -> bool:
    r"""Tell whether a node says what numbers a variable stands for: `k \in \mathbb{Z}`."""
    return (
        node.kind == "chain"
        and node.text == "in"
        and node.parts[0].kind in ("sym", "list")
        and node.parts[1].kind in ("const", "sym")
    )


def _variable(condition: Node) -> str:
    return next((part.text for part in condition.walk() if part.kind == "sym"), "")


def _names(node: Node) -> set[str]:
    return {part.text for part in node.walk() if part.kind == "sym"} | {
        letter for part in node.walk() if part.kind == "letters" for letter in part.text
    }
