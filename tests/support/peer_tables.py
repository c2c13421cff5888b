"""Rows (reference, answer, whether they are equal) of peers' test files, read without running them.

Three forms are known: tables of `pytest.mark.parametrize`, asserts on calls of a grading function with literal
arguments (`CALLS`), and `assert_equal(latex, sympy's expression)`, whose reference is what sympy prints for it.
"""

import ast
import math
from dataclasses import dataclass
from functools import cache

# grading function -> where its answer and its reference stand: positions, or keywords
CALLS = {
    **dict.fromkeys(("is_equiv", "_test_is_equiv", "_test_is_not_equiv", "are_equal_under_sympy"), (0, 1)),
    **dict.fromkeys(("grade_answer", "grade_answer_mathd", "grade_answer_sympy", "grade_answer_verl"), (0, 1)),
    **dict.fromkeys(("gsm8k_reward_fn", "geometry3k_reward_fn"), ("completions", "answer")),
    **dict.fromkeys(("accuracy_reward", "reasoning_accuracy_reward"), (0, 1)),
    "score_math_response": (0, 1),
    "reward": (1, 0),
}
# What is given to these is a whole response, in which the answer must be boxed.
WHOLE = {"grade_answer_verl", "score_math_response", "accuracy_reward", "reasoning_accuracy_reward", "reward"}
GOLDS = ("gold", "ground_truth", "gt", "answer", "expected_output")
ANSWERS = ("pred", "given", "solution", "completion", "input_string", "raw", "input_str")
VERDICTS = ("expected", "result", "expected_correct", "expected_acc", "expected_score")
NEGATIVE = ("test_incorrect", "test_score_invalid")
UNKNOWN = object()


@dataclass(eq=False)
class Row:
    """One comparison, and the test that makes it; `equal` is None until an assert says what is due."""

    gold: object
    answer: object
    equal: bool | None = None
    whole: bool = False
    test: str = ""


class Names:
    """Stands for a name of the peer's code of which only the name matters."""

    def __getattr__(self, name):
        return name


def literal(node, names=None):
    """Return a node's value where it is made of literals and known names, else UNKNOWN."""
    known = {"math": math, **dict.fromkeys(("Language", "sympy", "RewardType"), Names()), **(names or {})}
    calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    owners = (call.value if isinstance(call, ast.Attribute) else call for call in calls)
    if not all(isinstance(owner, ast.Constant) or ast.unparse(owner) == "math" for owner in owners):
        return UNKNOWN  # only a text's own methods, and mathematics
    try:
        value = eval(compile(ast.Expression(node), "table", "eval"), {"__builtins__": {}}, known)
    except (NameError, TypeError, KeyError, IndexError, AttributeError):
        return UNKNOWN
    return UNKNOWN if isinstance(value, Row) else value


def rows_of(path):
    """Yield the rows of one test file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            followed = Interpreter()
            followed.walk(function.body)
            for row in [*parametrized(function), *(row for row in followed.rows if row.equal is not None)]:
                row.test = function.name
                yield row
    if any(isinstance(part, ast.FunctionDef) and "assert_equal" in ast.dump(part) for part in ast.walk(tree)):
        yield from sympy_rows(tree)


def parametrized(function):
    """Yield the rows of a test's table."""
    for decorator in function.decorator_list:
        name = ast.unparse(decorator).partition("(")[0].rpartition(".")[2]
        if name == "parametrize":
            names = literal(decorator.args[0])
            names = [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)
            table = decorator.args[1]
        elif name == "expand":
            names, table = [argument.arg for argument in function.args.args[1:]], decorator.args[0]
        else:
            continue
        for node in getattr(table, "elts", ()):
            values = literal(node)
            if values is not UNKNOWN:
                yield from table_row(
                    function.name, dict(zip(names, [values] if len(names) == 1 else values, strict=True))
                )


def table_row(test, values):
    """Yield what one line of a table compares."""
    if "test_case" in values:
        values = values["test_case"]
    if "output_pair" in values:
        first, second = values["output_pair"]
        if first is not None and second is not None:
            for gold, answer in ((first, second), (second, first)):
                yield Row(gold, answer, not test.startswith(NEGATIVE))
        return
    if "normal" in test or "canonical" in test:  # what a text is normalised to equals it
        values = {("gold" if name == "expected" else name): value for name, value in values.items()}
    gold, answer = (next((values[name] for name in group if name in values), None) for group in (GOLDS, ANSWERS))
    if isinstance(gold, str | int | float) and isinstance(answer, str | int | float) and gold != "":
        given = [values[name] for name in VERDICTS if name in values]
        whole = "solution" in values or "completion" in values
        yield Row(
            gold, answer, given[0] > 0 if given else not test.startswith(NEGATIVE), whole and "Answer" not in answer
        )


class Interpreter:
    """Follows the assignments of literals, the loops over them and the asserts of a test."""

    def __init__(self):
        self.names, self.rows = {}, []

    def walk(self, body):
        """Follow statements in order."""
        for node in body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._assign(node.targets[0], self._value(node.value))
            elif isinstance(node, ast.For):
                items = literal(node.iter, self.names)
                for item in items if isinstance(items, list | tuple) else ():
                    self._assign(node.target, item)
                    self.walk(node.body)
            elif isinstance(node, ast.With):
                self.walk(node.body)
            elif isinstance(node, ast.Assert):
                self._assert(node.test)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self._unittest(node.value)

    def _assign(self, target, value):
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, list | tuple) and len(value) == len(target.elts):
            for part, item in zip(target.elts, value, strict=True):
                self._assign(part, item)

    def _value(self, node):
        """Return a row for a call of a grading function, else the literal."""
        if isinstance(node, ast.Await):
            node = node.value
        name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if name not in CALLS:
            return literal(node, self.names)
        given = dict(enumerate(node.args)) | {keyword.arg: keyword.value for keyword in node.keywords}
        answer, gold = (literal(given[place], self.names) if place in given else UNKNOWN for place in CALLS[name])
        if name == "reward" and isinstance(gold, dict):
            gold = gold.get("ground_truth", UNKNOWN)
        if isinstance(answer, list) and isinstance(gold, list):
            texts = [one[0]["content"] if isinstance(one, list) else one for one in answer]
            made = [Row(one, text, whole=name in WHOLE) for text, one in zip(texts, gold, strict=True)]
            self.rows += made
            return made
        good = isinstance(answer, str) and isinstance(gold, str) and gold.strip()
        if not good:
            return UNKNOWN
        self.rows.append(Row(gold, answer, whole=name in WHOLE))
        return self.rows[-1]

    def _subject(self, node):
        """Return the row that an expression is about, None if it is about none."""
        if isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Call):
            return self._value(node)
        if isinstance(node, ast.Subscript):
            rows, place = self._subject(node.value), literal(node.slice, self.names)
            return rows[place] if isinstance(rows, list) and isinstance(place, int) and place < len(rows) else None
        return self.names.get(node.id) if isinstance(node, ast.Name) else None

    def _due(self, subject, equal):
        if isinstance(subject, Row) and subject.equal is None:
            subject.equal = equal

    def _assert(self, test):
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._due(self._subject(test.operand), False)
        elif isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.Eq):
            value = literal(test.comparators[0], self.names)
            if isinstance(value, list):
                subject = self._subject(test.left)
                for row, one in zip(subject if isinstance(subject, list) else (), value, strict=False):
                    self._due(row, bool(one))
            elif value in (0, 1):
                self._due(self._subject(test.left), bool(value))
        elif isinstance(test, ast.Call | ast.Name):
            self._due(self._subject(test), True)

    def _unittest(self, call):
        name = ast.unparse(call.func).rpartition(".")[2]
        if name in ("assertTrue", "assertFalse"):
            self._due(self._subject(call.args[0]), name == "assertTrue")
        elif name == "assertEqual" and literal(call.args[1], self.names) in (0, 1):
            self._due(self._subject(call.args[0]), bool(literal(call.args[1], self.names)))


@cache
def _sympy_names():
    import sympy

    def unevaluated(kind):
        return lambda first, second: getattr(sympy, kind)(first, second, evaluate=False)

    names = {name: getattr(sympy, name) for name in dir(sympy) if not name.startswith("_")}
    return {**names, "sympy": sympy, **{f"_{kind}": unevaluated(kind) for kind in ("Add", "Mul", "Pow")}}


def sympy_rows(tree):
    """Yield the rows of `assert_equal(latex, expression)`."""
    import sympy

    names = dict(_sympy_names())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and "Symbol(" in ast.unparse(node.value)
        ):
            names[node.targets[0].id] = _evaluated(node.value, names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "assert_equal" and len(node.args) >= 2:
            latex, expression = (_evaluated(part, names) for part in node.args[:2])
            if isinstance(latex, str) and isinstance(expression, sympy.Basic | int | float):
                yield Row(sympy.latex(expression), latex, True)


def _evaluated(node, names):
    try:
        return eval(
            compile(ast.Expression(node), "table", "eval"), {"__builtins__": {"float": float, "int": int}}, names
        )
    except Exception:
        return UNKNOWN
