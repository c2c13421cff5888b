r"""Read expressions: sums, products, powers, functions. What stands in their brackets is read by `reading`.

Juxtaposed factors bind tighter than `*` and `/` (`1/2x` is 1/(2x)), unless a blank sets them apart from a fraction of
numbers (`1/2 x`); `2\frac{1}{3}` is a mixed number.
"""

from abc import abstractmethod
from fractions import Fraction

from nemo_cascade.rewards.answers.build import (
    added,
    arguments_of,
    call_of,
    in_base,
    is_fraction,
    is_minus_one,
    letters,
    marked,
    multiplied,
    primed,
    symbol,
    with_index_i,
)
from nemo_cascade.rewards.answers.lookahead import CLOSING, Lookahead
from nemo_cascade.rewards.answers.node import Node, Unreadable, number
from nemo_cascade.rewards.answers.tokens import Token

_INVERTIBLE = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"})
_NAMES_OF_FUNCTIONS = frozenset("fgFGP")


class ExpressionParser(Lookahead):
    """Reads the expressions of one answer."""

    def __init__(self, tokens: list[Token], depth: int = 0) -> None:
        super().__init__(tokens, depth)
        self.conditions: list[Node] = []

    @abstractmethod
    def answer(self) -> Node:
        """Read what stands in a bracket."""

    @abstractmethod
    def environment(self, name: str) -> Node:
        r"""Read what stands between `\begin{...}` and `\end{...}`."""

    def sum(self) -> Node:
        """Read terms with their signs."""
        terms = [self._signed_term()]
        while self.sees("+", "-", "pm", "mp"):
            sign = self.take().text
            term = self._term()
            if sign in ("pm", "mp"):
                terms = [Node("pm", (added(terms), term), sign)]
            else:
                terms.append(Node("neg", (term,)) if sign == "-" else term)
        return added(terms)

    def _signed_term(self) -> Node:
        if self.sees("pm", "mp"):
            sign = self.take().text
            return Node("pm", (self._term(),), sign)
        return self._term()

    def _term(self) -> Node:
        """Read a product."""
        left = self._unary()
        while self.sees("*", "/", "mod", "circ"):
            sign = self.take().text
            if sign == "circ":  # one function after another
                left = call_of("circ", left, self._unary())
                continue
            if sign == "mod" and self.sees("("):
                raise Unreadable("a modulus in brackets behind no congruence")
            right = self._divisor() if sign == "/" and left.kind == "num" else self._unary()
            if sign == "*":
                factors = left.parts if left.kind == "mul" else (left,)
                left = Node("mul", (*factors, right))
            else:
                left = Node("div", (left, right)) if sign == "/" else call_of("mod", left, right)
        return left

    def _divisor(self) -> Node:
        """Read what a number is divided by: a number alone where a blank sets the rest apart, `1/2 x`."""
        here, after = self.peek(), self.peek(1)
        if (
            here.kind != "num"
            or not after.spaced
            or after.kind == "num"
            or (after.kind == "sign" and after.text != "(")
        ):
            return self._unary()
        divisor = self._number(self.take())
        if self.starts_factor():  # what follows is a factor of its own
            self.tokens.insert(self.at, Token("sign", "*"))
        return divisor

    def _unary(self) -> Node:
        negative = False
        while self.sees("-", "+"):
            negative ^= self.take().text == "-"
        currency = (self.take().literal or "dollar") if self.sees("$") else ""
        node = self._juxtaposed()
        if currency:
            node = Node("unit", (node,), currency)
        return Node("neg", (node,)) if negative else node

    def _juxtaposed(self) -> Node:
        """Read factors that stand side by side, or a mixed number."""
        factors = [self.factor()]
        while self.starts_factor():
            token, before = self.peek(), factors[-1]
            if before.kind == "word":
                raise Unreadable("a word beside an expression")
            if token.kind == "num" and before.kind == "num":
                factors[-1] = self._mixed_in_line(before)
                continue
            if token.kind == "letter" and token.text == "Omega" and before.kind == "num" and self.last_of_item(1):
                break  # ohms
            if token.kind == "letter" and token.text in "CF" and before.kind == "deg" and self.last_of_item(1):
                break  # of temperature
            if token.text == "(" and before.kind not in ("sym", "letters", "call") and self.opens_words():
                break  # a unit in brackets
            factor = self.factor()
            if factor.kind == "chain" and token.text == "(":
                self.conditions.append(factor)
                continue
            if before.kind == "deg" and factor.kind == "deg" and len(factors) == 1:  # degrees and their minutes
                factors[-1] = Node("deg", (Node("add", (before, factor)),))
                continue
            whole = before.kind == "num" and not before.text and before.value is not None
            share = factor.kind == "pct"
            fraction = factor.parts[0] if share else factor
            if whole and len(factors) == 1 and token.text == "frac" and is_fraction(fraction):
                mixed = Node("add", (before, fraction))
                factors[-1] = Node("pct", (mixed,)) if share else mixed
            else:
                factors.append(factor)
        return multiplied(factors)

    def _mixed_in_line(self, whole: Node) -> Node:
        """Read the fraction of `2 1/3`."""
        above, slash, below = self.peek(), self.peek(1), self.peek(2)
        good = above.spaced and slash.kind == "sign" and slash.text == "/" and below.kind == "num" and below.value
        if not good or whole.text or above.literal or below.literal or above.value is None or below.value is None:
            raise Unreadable("two numbers side by side")
        self.at += 3
        return Node("add", (whole, Node("div", (number(above.value), number(below.value)))))

    def factor(self) -> Node:
        """Read an operand with what is raised, lowered or set behind it."""
        first = self.peek()
        node = self._atom()
        if first.kind == "letters" and self.sees("^", "'", "!"):  # of a run of letters the last is raised
            self.put_back(Token("letter", node.text[-1]))
            return Node("mul", (letters(node.text[:-1]), self.factor()))
        while True:
            if self.sees("^"):
                self.at += 1
                node = self._raised(node)
            elif self.sees("_"):
                self.at += 1
                node = self._lowered(node, first)
            elif self.sees("!"):
                marks = 0
                while self.accept("!"):
                    marks += 1
                node = Node("fact", (node,), "!" * marks)
            elif self.sees("%"):
                self.at += 1
                node = Node("pct", (node,))
            elif self.accept("'"):
                primes = 1
                while self.accept("'"):
                    primes += 1
                node = primed(node, primes)
            elif (
                self.sees("degree")
                or (self.sees("circ") and node.kind == "num" and self.last_of_item(1))
                or (node.kind == "num" and self.sees_degrees())
            ):
                self.at += 1
                node = Node("deg", (node,))
            else:
                return node

    def _raised(self, base: Node) -> Node:
        if self.accept("circ", "degree") or (base.kind == "num" and self.accept_raised("o")):
            return Node("deg", (base,))
        if base.kind == "num" and self.accept_raised("st", "nd", "rd", "th"):
            return Node("unit", (base,), "th")
        if self.accept("'"):
            return primed(base, 1)
        if self.sees("{"):
            inside = self.peek(1)
            if inside.text in ("circ", "degree", "+", "*") and self.peek(2).text == "}":
                self.at += 3
                return Node("deg", (base,)) if inside.text in ("circ", "degree") else marked(base, inside.text)
            if inside.text == "'":
                self.take()
                primes = 0
                while self.accept("'"):
                    primes += 1
                self.expect("}")
                return primed(base, primes)
        if self.sees("+", "*") and base.kind in ("const", "sym"):
            return marked(base, self.take().text)
        return Node("pow", (base, self._script(tower=True)))

    def _script(self, tower: bool = False) -> Node:
        """Read what is raised: a group, or a signed operand, in plain text with a further power on it."""
        negative = False
        while self.sees("-", "+"):
            negative ^= self.take().text == "-"
        token = self.peek()
        if token.kind == "letters":
            node = self._first_of(self.take())
        elif token.kind == "num":
            node = self._number(self.take())
        else:
            tower = tower and not self.sees("{")
            node = self._atom()
        if tower and token.kind != "letters" and self.accept("^"):
            self.deeper()
            node = Node("pow", (node, self._script(tower)))
            self.depth -= 1
        return Node("neg", (node,)) if negative else node

    def _lowered(self, base: Node, first: Token) -> Node:
        if base.kind == "num" and first.kind == "num":
            return in_base(first.text, self.subscript())
        if base.kind == "num" and base.value is not None and first.text == "(":  # (1011)_2
            return in_base(base.text or str(base.value), self.subscript())
        text = self.subscript()
        if base.kind == "letters":
            rest, last = base.text[:-1], symbol(f"{base.text[-1]}_{text}")
            return Node("mul", (letters(rest), last))
        if base.kind == "sym" or (base.kind == "const" and base.text in "ei"):
            return symbol(f"{base.text}_{text}")
        if base.kind == "const":
            return base
        raise Unreadable("a subscript of an expression")

    def _atom(self) -> Node:
        self.deeper()
        try:
            return self._operand()
        finally:
            self.depth -= 1

    def _operand(self) -> Node:
        token = self.take()
        if token.kind == "num":
            return self._number(token)
        if token.kind == "letter":
            return self._letter(token)
        if token.kind == "letters":
            return letters(token.text)
        if token.kind == "const":
            return Node("const", text=token.text)
        if token.kind == "call":
            return self._call(token.text)
        if token.kind == "command":
            return self._command(token.text)
        if token.kind == "big":
            return self._big(token.text)
        if token.kind == "word":
            words = [token.text]
            while self.peek().kind == "word":
                words.append(self.take().text)
            single = len(words) == 1 and len(token.text) == 1 and token.text.isascii()
            return symbol(token.text) if single else Node("word", text=" ".join(words))
        if token.kind == "env" and token.text.startswith("begin "):
            return self.environment(token.text.split(" ")[1].rstrip("*"))
        if token.kind == "sign":
            return self._bracket(token.text)
        raise Unreadable(f"{token.text or 'the end'} in place of an operand")

    def _number(self, token: Token) -> Node:
        assert token.value is not None
        if "," in token.literal:
            parts = tuple(number(int(digits)) for digits in token.literal.split(","))
            return Node("num", parts, value=token.value)
        return number(token.value, token.literal)

    def _letter(self, token: Token) -> Node:
        if token.text in _NAMES_OF_FUNCTIONS:
            start, name = self.at, token.text
            while self.accept("'"):
                name += "'"
            if self.sees("^") and [self.peek(n).text for n in range(1, 5)] == ["{", "-", "1", "}"]:
                self.at, name = self.at + 5, name + "^-1"
            braced = self.sees("{") and self.peek(1).text == "("
            self.at += braced
            if self.accept("("):
                node = Node("call", arguments_of(self._inside("(")), name)
                if braced:
                    self.expect("}")
                return node
            self.at = start
        return symbol(token.text)

    def _bracket(self, opening: str) -> Node:
        if opening in ("|", "||"):
            self.bars.append(1)
            self.in_set.append(False)
            inside = self.answer()
            self.bars.pop()
            self.in_set.pop()
            self.expect(opening)
            return call_of("abs", inside)
        if opening not in CLOSING:
            raise Unreadable(f"{opening} in place of an operand")
        if opening in ("\\lfloor", "\\lceil"):
            return call_of("floor" if opening == "\\lfloor" else "ceil", self._inside(opening))
        if opening == "\\{":
            return self._braces()
        return self._inside(opening)

    def _inside(self, opening: str) -> Node:
        """Read a bracket's content and its end: a tuple where it holds several items."""
        self.bars.append(0)
        self.in_set.append(False)
        self.in_set[-1] = opening == "{" and self.peek(1).text in ("|", ":")
        inside = self.answer()
        if opening == "{" and self.in_set[-1] and self.accept("|", ":"):  # braces without their backslashes
            self.in_set[-1] = False
            inside = Node("builder", (inside, self.answer()))
        self.bars.pop()
        self.in_set.pop()
        closing = self.expect(*(")", "]") if opening in ("(", "[") else (CLOSING[opening],))
        if opening != "{" and inside.kind == "list" and opening in ("(", "[", "<<"):
            return Node("tuple", inside.parts, "()" if opening == "<<" else opening + closing)
        return inside

    def _braces(self) -> Node:
        r"""Read a set, `\{1, 2\}` or `\{x \mid x > 0\}`."""
        if self.accept("\\}"):
            return Node("const", text="empty")
        self.bars.append(0)
        self.in_set.append(True)
        inside = self.answer()
        if self.accept("|", ":"):
            self.in_set[-1] = False
            condition = self.answer()
            node = Node("builder", (inside, condition))
        else:
            node = Node("set", inside.parts if inside.kind == "list" else (inside,))
        self.bars.pop()
        self.in_set.pop()
        self.expect("\\}")
        return node

    def _argument(self) -> Node:
        """Read what TeX takes as a command's argument: a group, or one digit, letter or command."""
        token = self.peek()
        if token.kind == "num" and len(token.text) > 1 and token.text.isdigit():
            self.take()
            self.put_back(Token("num", token.text[1:], False, Fraction(token.text[1:])))
            return number(int(token.text[0]))
        if token.kind == "letters":
            return self._first_of(self.take())
        return self._atom()

    def _first_of(self, token: Token) -> Node:
        rest = token.text[1:]
        self.put_back(Token("letter" if len(rest) == 1 else "letters", rest))
        return symbol(token.text[0])

    def _command(self, name: str) -> Node:
        if name == "frac":
            above = self._argument()
            return Node("div", (above, self._argument()))
        if name == "binom":
            above = self._argument()
            return call_of("binom", above, self._argument())
        if name == "sqrt":
            index = number(2)
            if self.accept("["):
                index = self.answer()
                self.expect("]")
            return Node("pow", (self._argument(), Node("div", (number(1), index))))
        if self.peek().kind in ("letter", "letters"):  # an angle or a triangle, by its corners
            return symbol(f"{name} {self.take().text}")
        return symbol(name)

    def _call(self, name: str) -> Node:
        power = base = None
        while self.sees("^", "_"):
            if self.take().text == "^":
                power = self._script()
            else:
                base = self._script()
        if name in ("sqrt", "cbrt"):
            plain = self.peek().kind in ("num", "letter")  # sqrt3/2
            root = Node("div", (number(1), number(2 if name == "sqrt" else 3)))
            return Node("pow", (self._atom() if plain else self._call_argument()[0], root))
        if name == "factorial":
            return Node("fact", self._call_argument(), "!")
        if power is not None and name in _INVERTIBLE and is_minus_one(power):
            name, power = (f"arc{name}" if name in ("sin", "cos", "tan", "cot", "sec", "csc") else f"a{name}"), None
        arguments = self._call_argument()
        if name == "lg" or (name == "log" and base is None and len(arguments) == 1):
            name, base = "log", number(10)
        node = Node("call", (*arguments, base) if base is not None else arguments, name)
        return node if power is None else Node("pow", (node, power))

    def _call_argument(self) -> tuple[Node, ...]:
        """Read a function's argument: a bracket, or the factors up to the next function or sign."""
        if self.sees("(", "{", "["):
            return arguments_of(self._inside(self.take().text))
        if self.sees("\\{"):
            return arguments_of(self._bracket(self.take().text))
        if self.accept("-"):
            self.deeper()
            argument = self._call_argument()
            self.depth -= 1
            return (Node("neg", argument),)
        factors = [self.factor()]
        while self.starts_factor() and not self.sees("(", "[", "\\{") and self.peek().kind not in ("call", "big"):
            if self.peek().kind == "num" and factors[-1].kind == "num":
                raise Unreadable("two numbers side by side")
            factors.append(self.factor())
        node = multiplied(factors)
        while self.sees("/") and self.peek(1).kind == "num":
            self.take()
            node = Node("div", (node, self.factor()))
        return (node,)

    def _big(self, name: str) -> Node:
        r"""Read a sum, product, integral or limit with what stands below and above it."""
        below, above = Node("const", text="none"), Node("const", text="none")
        while self.sees("^", "_"):
            if self.take().text == "^":
                above = self._script()
            else:
                below = self._script()
        body = self.sum() if "int" in name else self._term()
        if below.kind == "chain" and below.parts[0] == Node("const", text="i"):  # an index, no imaginary unit
            body, below = with_index_i(body), with_index_i(below)
        return Node("big", (body, below, above), name)
