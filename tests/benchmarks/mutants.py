"""Mechanical mutants of Python programs: one place changed, the rest as it was."""

import ast
import copy
import random
from collections.abc import Callable, Iterator

Change = Callable[[ast.AST], ast.AST]

COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARISONS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult}
OPERATORS |= {ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr}
OPERATORS |= {ast.LShift: ast.RShift, ast.RShift: ast.LShift}


def _comparison(node: ast.AST) -> ast.AST:
    node.ops[0] = COMPARISONS[type(node.ops[0])]()
    return node


def _operator(node: ast.AST) -> ast.AST:
    node.op = OPERATORS[type(node.op)]()
    return node


def _more(node: ast.AST) -> ast.AST:
    return ast.Constant(node.value + 1)


def _other(node: ast.AST) -> ast.AST:
    return ast.Constant(not node.value)


def _connective(node: ast.AST) -> ast.AST:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return node


def _dropped(_: ast.AST) -> ast.AST:
    return ast.Pass()


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "comparison", _comparison
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        yield "operator", _operator
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", _more
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "constant", _other
    if isinstance(node, ast.BoolOp):
        yield "connective", _connective
    if isinstance(node, (ast.Expr, ast.AugAssign, ast.Break, ast.Continue)) and not _is_text(node):
        yield "dropped line", _dropped


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class _At(ast.NodeTransformer):
    """Changes the node at a place, counted as `ast.NodeTransformer` comes by them."""

    def __init__(self, place: int, change: Change) -> None:
        self.place, self.change, self.seen, self.what = place, change, -1, ""

    def visit(self, node: ast.AST) -> ast.AST:
        self.seen += 1
        if self.seen != self.place:
            return self.generic_visit(node)
        before, line = ast.unparse(node), getattr(node, "lineno", 0)
        changed = self.change(node)
        self.what = f"line {line}: {before} -> {ast.unparse(changed)}"
        return changed


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def mutants(source: str, most: int, seed: str) -> list[tuple[str, str]]:
    """Return at most so many mutants of a program, each what was changed, and the text; the seed picks them.

    Kinds come in turn, so that the many constants don't drown the few connectives.
    """
    tree = ast.parse(source)
    places = [(kind, number, change) for number, node in enumerate(_in_order(tree)) for kind, change in _changes(node)]
    chance = random.Random(seed)
    chance.shuffle(places)
    kinds = sorted({kind for kind, *_ in places})  # a set's own order is another in each process
    chance.shuffle(kinds)
    turns = [[place for place in places if place[0] == kind] for kind in kinds]
    chosen = [turn[number] for number in range(most) for turn in turns if number < len(turn)][:most]
    made = []
    for kind, number, change in chosen:
        at = _At(number, change)
        changed = ast.fix_missing_locations(at.visit(copy.deepcopy(tree)))
        made.append((f"{kind}, {at.what}", ast.unparse(changed)))
    return made
