"""When a test learns what calls changed in its arguments: rewrite its text so that held changes take effect in time.

See inside/link.py: a call that returns something holds back what it changed in its arguments. The changes take effect
behind the statement of the call, and where that only keeps the result, as in `out = f(data)`, behind the asserts that
compare the result with the argument, as `assert out == sorted(data)`: else a solution that empties both would pass.
"""

import ast
import builtins
from collections.abc import Iterator

HELD = "__held__"
"""Name under which tests find the changes of arguments that are still to take effect; see inside/remote.py."""
_BUILT_IN = frozenset(dir(builtins))


def releasing(tree: ast.Module) -> ast.Module:
    """Put the statements that let changes take effect into a tree, and return it."""
    _rewrite(tree)
    return tree


def _rewrite(node: ast.AST) -> None:
    """Rewrite the lists of statements under a node; expressions hold none."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        if isinstance(statements, list):
            for statement in statements:
                _rewrite(statement)
            if name not in ("handlers", "cases"):
                setattr(node, name, list(_releasing(node, name, statements)))


def _releasing(parent: ast.AST, name: str, statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    if name == "body" and isinstance(parent, ast.For | ast.While | ast.If | ast.With) and statements:
        yield _release(statements[0])
    kept: tuple[set[str], set[str]] | None = None
    for place, statement in enumerate(statements):
        yield statement
        kept = _kept(statement) or (kept if isinstance(statement, ast.Assert | ast.Expr) else None)
        following = statements[place + 1] if place + 1 < len(statements) else None
        if kept is not None and following is not None and _compares(following, *kept):
            continue
        simple = not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ImportFrom)
        if simple and (kept is not None or any(isinstance(part, ast.Call) for part in ast.walk(statement))):
            yield _release(statement)
        kept = None


def _kept(statement: ast.stmt) -> tuple[set[str], set[str]] | None:
    """Return the name that keeps a call's result, and those of what was handed over, where that is all it does."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.value, ast.Call):
        target, call = statement.targets[0], statement.value
        if isinstance(target, ast.Name):
            return {target.id}, _names(*call.args, *(keyword.value for keyword in call.keywords)) - {target.id}
    return None


def _compares(statement: ast.stmt, result: set[str], given: set[str]) -> bool:
    """Tell whether a statement asserts something of a result, by itself or by what was handed over, and nothing else.

    What compares with a third value, as `assert data[:k] == [1, 2]`, is about the changes.
    """
    if isinstance(statement, ast.Assert):
        sides = [statement.test]
        if isinstance(statement.test, ast.Compare):
            sides = [statement.test.left, *statement.test.comparators]
        known = _names(statement)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and _is_assertion(statement.value):
        sides = statement.value.args[:2]
        known = _names(*statement.value.args)
    else:
        return False
    bound = {part.id for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    if known - result - given - bound - _BUILT_IN or not known & result:
        return False
    if not known & given:
        return True
    mentioned = [(bool(_names(side) & result), bool(_names(side) & given)) for side in sides]
    return all(ours != theirs for ours, theirs in mentioned)


def _is_assertion(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr.startswith("assert")


def _names(*nodes: ast.AST) -> set[str]:
    loaded = (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name))
    return {part.id for part in loaded if isinstance(part.ctx, ast.Load)}


def _release(beside: ast.stmt) -> ast.stmt:
    """Return the statement `if __held__: __held__.release()`."""
    place = {name: getattr(beside, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    held = ast.Name(HELD, ast.Load(), **place)
    call = ast.Call(ast.Attribute(held, "release", ast.Load(), **place), [], [], **place)
    return ast.If(held, [ast.Expr(call, **place)], [], **place)
