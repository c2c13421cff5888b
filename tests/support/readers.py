"""Which fields of which classes a program reads, told from its annotations alone.

A name has the classes that its annotation names, or those of what it is assigned from; an attribute those that its
class's field holds; a call those of the annotated return. What holds several (a list, a mapping) counts as one of them.
"""

import ast

_OWN = (ast.FunctionDef, ast.AsyncFunctionDef)


def _words(annotation):
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def _functions(tree):
    """Yield the functions of a module, each with the class that it is a method of."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from ((node.name, item) for item in node.body if isinstance(item, _OWN))
        elif isinstance(node, _OWN):
            yield None, node


class Readers:
    """Collect the reads of fields.

    Args:
        fields: class -> field -> the classes that it holds.
    """

    def __init__(self, fields):
        self.fields, self._read = fields, set()
        self.returns, self.attributes, self.bases, self.protocols = {}, {}, {}, {}

    def learn(self, trees):
        """Note what functions return, what attributes hold, and which class builds on which."""
        trees = list(trees)
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, _OWN) and node.returns is not None:
                    self.returns.setdefault(node.name, set()).update(self._named(node.returns))
                if isinstance(node, ast.ClassDef):
                    self.bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    if "Protocol" in self.bases[node.name]:
                        self.protocols[node.name] = {item.name for item in node.body if isinstance(item, _OWN)}
                    for item in node.body:
                        if isinstance(item, ast.AnnAssign):
                            self._hold(item.target.id, self._named(item.annotation))
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, _OWN) and node.name == "__init__":
                    names = self._names(node)
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.Assign):
                            self._assign_attributes(inner, names)

    def read(self, tree):
        """Note every field that is read in a module; checking a value, for a list of problems, is not using it."""
        for owner, function in _functions(tree):
            if function.returns is not None and {"Problems", "CascadeError"} & _words(function.returns):
                continue
            names = self._names(function) | ({"self": {owner}} if owner else {})
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    self._read |= {(of, node.attr) for of in self._of(node.value, names)}
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars":
                    every = set().union(*(self._of(argument, names) for argument in node.args))
                    self._read |= {(of, field) for of in every for field in self.fields.get(of, ())}

    def has(self, owner, field):
        """Tell whether a field is read from its class, or from one that it builds on or that builds on it."""
        family = {owner, *self._above(owner)} | {name for name in self.fields if owner in self._above(name)}
        return any((name, field) in self._read for name in family)

    def _above(self, owner):
        above = set(self.bases.get(owner, ()))
        return above.union(*(self._above(base) for base in above))

    def _named(self, annotation):
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value)
        names = _words(annotation)
        known = names & (self.fields.keys() | self.bases.keys())
        stages = self.fields["RunConfig"]["stages"] if "Stage" in names else set()
        alike = {name for p in names & self.protocols.keys() for name in self.fields if self._is_like(name, p)}
        return known | stages | alike

    def _is_like(self, owner, protocol):
        return self.protocols[protocol] <= self.fields[owner].keys()

    def _hold(self, attribute, classes):
        self.attributes.setdefault(attribute, set()).update(classes)

    def _assign_attributes(self, node, names):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for place, value in pairs:
                if isinstance(place, ast.Attribute):
                    self._hold(place.attr, self._of(value, names))

    def _names(self, function):
        """Return what the names of a function hold; two passes, since a loop may use what stands behind it."""
        every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names = {a.arg: self._named(a.annotation) for a in every if a.annotation is not None}
        for _ in range(2):
            for node in ast.walk(function):
                if isinstance(node, _OWN) and node is not function:
                    inner = [*node.args.args, *node.args.kwonlyargs]
                    names.update({a.arg: self._named(a.annotation) for a in inner if a.annotation is not None})
                elif isinstance(node, ast.Assign):
                    for target in node.targets:
                        self._bind(target, node.value, names)
                elif isinstance(node, ast.NamedExpr):
                    self._bind(node.target, node.value, names)
                elif isinstance(node, (ast.For, ast.comprehension)):
                    self._bind(node.target, node.iter, names)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.setdefault(node.target.id, set()).update(self._named(node.annotation))
        return names

    def _bind(self, target, value, names):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for place, part in zip(target.elts, value.elts, strict=True):
                self._bind(place, part, names)
            return
        held = self._of(value, names)
        for place in ast.walk(target):
            if isinstance(place, ast.Name):
                names.setdefault(place.id, set()).update(held)

    def _of(self, node, names):
        """Return the classes that an expression may hold."""
        if isinstance(node, ast.Name):
            return names.get(node.id, set())
        if isinstance(node, ast.Attribute):
            owners = self._of(node.value, names)
            held = set().union(*(self._field(owner, node.attr) for owner in owners))
            # `self.config`, or what an own class holds: by the attribute's name alone.
            return held or self.attributes.get(node.attr, set())
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute):
                of = self._of(called.value, names) if called.attr in ("values", "items", "get") else set()
                return of | self.returns.get(called.attr, set())
            if isinstance(called, ast.Name):
                inside = set().union(*(self._of(argument, names) for argument in node.args))
                through = (
                    inside if called.id in ("replace", "list", "enumerate", "zip", "sorted", "reversed") else set()
                )
                return through | self.returns.get(called.id, set()) | ({called.id} & self.fields.keys())
        parts = ()
        if isinstance(node, (ast.Subscript, ast.Starred)):
            parts = (node.value,)
        elif isinstance(node, ast.IfExp):
            parts = (node.body, node.orelse)
        elif isinstance(node, ast.BoolOp):
            parts = node.values
        elif isinstance(node, (ast.List, ast.Tuple)):
            parts = node.elts
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            parts = (node.elt,)
        return set().union(*(self._of(part, names) for part in parts))

    def _field(self, owner, attribute):
        for name in (owner, *self._above(owner)):
            if attribute in self.fields.get(name, {}):
                return self.fields[name][attribute]
        return set()
