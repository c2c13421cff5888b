"""Dotted names of a tree's Python files, and which of them a patch may have a say in when its tests are run."""

import ast
import builtins
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from nemo_cascade.rewards.code.tests import bound_names

_TEST_NAME = re.compile(r"test_.*\.py|.*_test\.py")
# Folders that installed repositories have their packages in, where they are none themselves.
_SOURCE_FOLDERS = ("src", "lib")
# Characters of a patch's text: parsing it takes time quadratic in an f-string's length.
_MOST_PARSED = 50_000


@dataclass(frozen=True, slots=True)
class Modules:
    """What `use_tree` is told; see there.

    Attributes:
        brought: top-level names that only the patch has, and that lead nowhere.
    """

    near: Mapping[str, tuple[str, bool]]
    first: Mapping[str, bool]
    last: Mapping[str, bool]
    star: Mapping[str, list[str]]
    brought: Collection[str]

    def supplied(self) -> set[str]:
        """Return the top-level names that the tests import and only the patch has: the tests would judge by them."""
        texts = [text for text, _ in self.near.values()]
        return {name.partition(".")[0] for text in texts for name in _imports(text)} & set(self.brought)


def belongs_to_tests(path: str) -> bool:
    """Whether a file is a test or a helper of tests by its name: the row's own version is used, never a patch's."""
    *folders, name = path.split("/")
    return bool({"test", "tests"} & set(folders)) or name == "conftest.py" or bool(_TEST_NAME.fullmatch(name))


def source_folders(paths: Collection[str]) -> list[str]:
    """Return the folders that are to be on Python's path beside the root."""
    return [f for f in _SOURCE_FOLDERS if f"{f}/__init__.py" not in paths and any(p.startswith(f"{f}/") for p in paths)]


def module_names(paths: Collection[str]) -> dict[str, str]:
    """Return dotted name -> path of the Python files of a tree, a package by its `__init__.py`."""
    roots = ["", *(f"{folder}/" for folder in source_folders(paths))]
    names = {}
    for path in paths:
        for root in roots:
            if path.endswith(".py") and path.startswith(root):
                dotted = path.removeprefix(root).removesuffix(".py").replace("/", ".")
                names[dotted.removesuffix(".__init__")] = path
    return names


def with_folders(names: Mapping[str, str]) -> dict[str, bool]:
    """Return dotted name -> whether it is a package, of modules and of all folders above them."""
    packages = {above for name in names for above in _above(name)}
    found = {name: path.endswith("/__init__.py") or path == "__init__.py" for name, path in names.items()}
    return {**dict.fromkeys(packages, True), **{name: package or name in packages for name, package in found.items()}}


def share_out(
    files: Mapping[str, str],
    patched: Mapping[str, str],
    test_files: Mapping[str, str],
    golden: Mapping[str, str] | None,
) -> Modules:
    """Say which modules are the tests' own, which are the patched tree's, and in what order they are found.

    A module that the patch alone brings is one of the tree's only if the golden patch brings it, too (where the row has
    one), and never stands in the place, above or below of a module of the tests. `import *` takes the names that the
    module has in the row's files, before or after the golden patch: none that a patch makes up, such as `abs`.

    Args:
        files: of the repository, as they were.
        patched: as the patch left them.
        test_files: the tests.
        golden: the files after the golden patch, None if the row has none.
    """
    near = {path: text for path, text in files.items() if belongs_to_tests(path)} | dict(test_files)
    own = module_names([path for path in files if path not in near])
    beside = {name: path for name, path in _siblings(near).items() if name not in with_folders(own)}
    near_names = {**beside, **module_names(near)}
    allowed = None if golden is None else set(with_folders(module_names([p for p in golden if p not in near])))
    wanted = module_names([path for path in patched if path not in near and not belongs_to_tests(path)])
    first = {name: package for name, package in with_folders(own).items() if name not in near_names}
    tops = {name.partition(".")[0] for name in first}
    folders = {above for name in near_names for above in _above(name)} - set(first)
    last: dict[str, bool] = {}
    for name, package in with_folders(wanted).items():
        inside_a_test = any(above in near_names and not _is_package(near_names[above]) for above in _above(name))
        if name in first or name in near_names or name in folders or inside_a_test:
            continue
        if allowed is None or name in allowed:
            (first if name.partition(".")[0] in tops else last)[name] = package
    texts = {name: (near[path], _is_package(path)) for name, path in near_names.items()}
    brought = {name.partition(".")[0] for name in wanted} - {n.partition(".")[0] for n in [*first, *last, *texts]}
    stars = {name for module, (text, package) in texts.items() for name in _star_imports(module, text, package)}
    trusted = [files] if golden is None else [files, golden]
    star = {name: sorted(set().union(*(_public(name, tree, set()) for tree in trusted))) for name in stars}
    changed = sum(len(text) for path, text in patched.items() if text != files.get(path))
    if golden is None and changed <= _MOST_PARSED:
        hidden = set(dir(builtins)) | {bound for text, _ in texts.values() for bound in bound_names(_parsed(text).body)}
        star = {n: sorted({*names, *(_public(n, patched, set()) - hidden)}) for n, names in star.items()}
    return Modules({**dict.fromkeys(folders, ("", True)), **texts}, first, last, star, brought)


def _is_package(path: str) -> bool:
    return path.rpartition("/")[2] == "__init__.py"


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _siblings(near: Mapping[str, str]) -> dict[str, str]:
    """Return the names under which pytest lets tests of a folder that is no package import what lies beside them."""
    found = {}
    for path in near:
        folder, _, name = path.rpartition("/")
        if folder and f"{folder}/__init__.py" not in near and name.endswith(".py") and not _TEST_NAME.fullmatch(name):
            found[name.removesuffix(".py")] = path
    found.pop("conftest", None)
    return found


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # in a file that no test may need
        return ast.Module([], [])


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _star_imports(module: str, text: str, package: bool) -> Iterator[str]:
    if "import *" not in text:
        return
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield _absolute(module, package, node)


def _absolute(module: str, package: bool, node: ast.ImportFrom) -> str:
    parts = module.split(".")
    base = parts[: len(parts) - node.level + package] if node.level else []
    return ".".join([*base, *(node.module or "").split(".")]).strip(".")


def _public(module: str, files: Mapping[str, str], seen: set[str]) -> set[str]:
    """Return the names that `import *` takes from a module of a tree, as far as its text tells."""
    path = module_names(files).get(module)
    if path is None or module in seen:
        return set()
    tree = _parsed(files[path])
    names = bound_names(tree.body)
    for star in _star_imports(module, files[path], _is_package(path)):
        names |= _public(star, files, {*seen, module})
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)
        if named and isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple)):
            listed = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
            return {name for name in listed if isinstance(name, str)}
    return {name for name in names if not name.startswith("_")}
