"""Key paths of the schema (`stages.math_rl.optimizer.lr`): which exist, what they mean, what was probably meant."""

import ast
import difflib
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nemo_cascade.config.plugins import anchored
from nemo_cascade.config.reading import libyaml
from nemo_cascade.config.reading.shipped import SHIPPED_CONF
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.config.stages.own import own_block, own_kind
from nemo_cascade.config.verifiers.base import Settings
from nemo_cascade.config.verifiers.kinds import SETTINGS, settings_block
from nemo_cascade.errors import CascadeError

# Keys of earlier versions, by a pattern of their path, and what to write in their place.
_RENAMED = (
    (r"(stages\.[^.]+)\.(prompts|mixed_with)", r"\1.tasks.NAME={path: ..., domain: ..., reward: {kind: ...}}"),
    (r"(stages\.[^.]+\.tasks\.[^.]+|evaluation\.suites\.[^.]+)\.verifier", r"\1.reward.kind"),
    (r"(.+\.reward\.(?:terms|gates)\.\d+)\.(verifier|options)", r"\1.reward={kind: ...}"),
    (
        r"reward\.genrm\.(think|answer|think_bonus|answer_bonus|quality_percentile)",
        r"stages.NAME.shaping.length_control.\1",
    ),
)

NO_DEFAULT: Any = PydanticUndefined

# From this likeness on, a name is taken for a misspelt other one, wherever that stands.
_ALIKE = 0.84


@dataclass(frozen=True, eq=False)
class SchemaField:
    """One field of a block, as a key path reached it.

    Attributes:
        key: the full path.
        block: the class that declares the field.
        name: the field.
        annotation: its type, without `Annotated`.
        constraints: bounds such as Gt(0).
    """

    key: str
    block: type
    name: str
    annotation: Any
    constraints: tuple[Any, ...] = ()

    @property
    def meaning(self) -> str:
        """The docstring under the field, in its block or in a base of it."""
        return next((told for base in self.block.__mro__ if (told := _meanings(base).get(self.name))), "")

    @property
    def default(self) -> Any:
        """The schema's default, or NO_DEFAULT where the field must be given."""
        info = _declared(self.block)[self.name]
        return info.get_default(call_default_factory=True, validated_data={})


def _declared(cls: type) -> Mapping[str, FieldInfo]:
    fields: Mapping[str, FieldInfo] = cls.__dict__.get("__pydantic_fields__", {})
    return fields


@cache
def _meanings(cls: type) -> Mapping[str, str]:
    """Return a block's own fields with the docstrings under them.

    Pydantic would read them as it declares a class, and every process declares all of them.
    """
    told: dict[str, str] = {}
    if not _declared(cls):
        return told
    try:
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):  # a block of a user's own whose file is gone
        return told
    assert isinstance(declared, ast.ClassDef)
    for field, below in itertools.pairwise(declared.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                told[name] = " ".join(text.split())
    return told


def is_block(annotation: Any) -> bool:
    """Tell whether a type is a config block."""
    return isinstance(annotation, type) and bool(_declared(annotation))


def block_fields(block: type) -> list[str]:
    """Return the names of a block's fields, in order of declaration."""
    return list(_declared(block))


def _strip(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def candidates(annotation: Any, data: Any = None) -> list[Any]:
    """Return the types behind an annotation: a union's members, narrowed to the one whose `kind` the data names.

    A reward is a union of all verifiers' settings, and of those of the user's own that the data name.
    """
    annotation = _strip(annotation)
    if annotation is Settings:
        return _rewards(data.get("kind") if isinstance(data, Mapping) else None)
    if get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    members = [_strip(m) for m in get_args(annotation) if m is not type(None)]
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if (own := own_kind(data)) is not None and any(is_block(m) and issubclass(m, StageBase) for m in members):
        return [own_block(own)]
    return [m for m in members if is_block(m) and _kind_of(m) == kind] or members


def _rewards(kind: Any) -> list[Any]:
    if isinstance(kind, str):
        with suppress(CascadeError):  # no such kind: any might be meant
            return [settings_block(anchored(kind))]
    return list(SETTINGS.values())


def _kind_of(block: type) -> Any:
    info = _declared(block).get("kind")
    return info.default if info else None


def find(key: str, data: Mapping[str, Any] | None = None, *, may_add: bool = True) -> list[SchemaField]:
    """Resolve a key path against the schema.

    Args:
        key: dotted path; list items by number.
        data: the composed configuration, which tells the kinds and names of stages and suites.
        may_add: whether names that `data` lacks may be used in free mappings (stages, suites, architecture).

    Returns:
        The field that the path ends at or runs through last (an entry of a mapping belongs to the mapping's field);
        several if the kind of the stage is not known and more than one kind has the field.

    Raises:
        CascadeError: there is no such key; names the closest.
    """
    found, stop = _walk(key, data, may_add)
    if stop is not None:
        raise unknown_key(stop, key, data, may_add)
    return found


@dataclass(frozen=True)
class _Stop:
    """Where a key leaves the schema: after how many of its names, what would be known there, and in what."""

    depth: int
    known: tuple[str, ...]
    is_entry: bool


def _walk(key: str, data: Mapping[str, Any] | None, may_add: bool) -> tuple[list[SchemaField], _Stop | None]:
    """Follow a key path; see `find`. Returns the fields that it ends at, and where it left the schema if it did."""
    here: list[tuple[Any, SchemaField | None]] = [(RunConfig, None)]
    value: Any = data
    parts = key.split(".")
    for depth, part in enumerate(parts):
        following, known = _follow(here, part, ".".join(parts[: depth + 1]), value)
        if not following:
            return [], _Stop(depth, tuple(known), is_entry=False)
        there = value if isinstance(value, Mapping) else {}
        if _is_mapping(here) and not may_add and part not in there:
            return [], _Stop(depth, tuple(str(name) for name in there), is_entry=True)
        value = _item(value, part)
        here = following
    return list({(found.block, found.name): found for _, found in here if found is not None}.values()), None


def _is_mapping(here: Sequence[tuple[Any, SchemaField | None]]) -> bool:
    return any(get_origin(annotation) is dict or annotation is dict for annotation, _ in here)


def _follow(
    here: Sequence[tuple[Any, SchemaField | None]], part: str, path: str, value: Any
) -> tuple[list[tuple[Any, SchemaField | None]], list[str]]:
    following: list[tuple[Any, SchemaField | None]] = []
    known: list[str] = []
    for annotation, found in here:
        for kind in candidates(annotation, value):
            if is_block(kind):
                fields = _declared(kind)
                known += [name for name in fields if name not in known]
                if part in fields:
                    info = fields[part]
                    reached = SchemaField(path, kind, part, _strip(info.annotation), tuple(info.metadata))
                    following.append((info.annotation, reached))
            elif get_origin(kind) is dict:
                following.append((get_args(kind)[1], found))
            elif get_origin(kind) is list and part.isdigit():
                following.append((get_args(kind)[0], found))
            elif kind is Any:
                following.append((Any, found))
    return following, known


def _item(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    return None


def unknown_key(stop: _Stop, key: str, data: Mapping[str, Any] | None, may_add: bool) -> CascadeError:
    """Build the refusal of a key: what it suggests is a key that this configuration takes.

    Args:
        stop: where it left the schema.
        key: the whole key.
        data: the composed configuration, which tells the names and kinds of stages and suites.
        may_add: whether names that `data` lacks may be used in free mappings.
    """
    parts = key.split(".")
    path, above = ".".join(parts[: stop.depth + 1]), ".".join(parts[: stop.depth])
    moved = next((m.expand(new) for old, new in _RENAMED if (m := re.fullmatch(old, path))), None)
    near = [] if moved else _meant(stop, parts, data, may_add)
    if data is not None:
        near = [name if takes(name, data) else f"+{name}" for name in near]
    nothing = f"{above} is empty" if stop.is_entry else f"{above} is a single value and has no keys"
    holders = [] if near or moved else _holders(key)
    limit = None if near or moved or holders else (", ".join(stop.known) or nothing)
    if near or moved:
        mend = f"write {moved}" if moved else f"did you mean {' or '.join(near)}?"
    elif stop.is_entry and takes(key, data, may_add=True):
        mend = f"+{key}=VALUE adds an entry"
    elif holders:
        mend = f"it is a value of {' or '.join(holders)}: explain that"
    elif not stop.known and above:
        mend = f"{above}=VALUE"
    else:
        mend = f"take one of these; `nemo-cascade explain {above or 'stages'}` tells about them"
    return CascadeError("unknown key", value=path, limit=limit, mend=mend)


def _meant(stop: _Stop, parts: Sequence[str], data: Mapping[str, Any] | None, may_add: bool) -> list[str]:
    """Return what a wrong key may have meant, at most three: its like in the same block, or its name elsewhere."""
    unknown, rest = parts[stop.depth], parts[stop.depth + 1 :]
    here: list[str] = []
    close = nearest(unknown, stop.known)
    if close is not None:
        block = ".".join([*parts[: stop.depth], close])
        here = [key for key in (".".join([block, *rest]), block) if takes(key, data, may_add)][:1]
        if here and difflib.SequenceMatcher(None, unknown, close).ratio() >= _ALIKE:
            return here
    # A stage's or a suite's name: what else is called so is no stage, and an entry of another name may be meant.
    if stop.is_entry and (not rest or (not here and takes(".".join(parts), data, may_add=True))):
        return here
    others = elsewhere(parts[-1], data, parts[:-1], may_add=may_add)
    inside = all(other.split(".")[: stop.depth] == list(parts[: stop.depth]) for other in others)
    return others if others and inside else [*here, *others][:3]


def takes(key: str, data: Mapping[str, Any] | None = None, may_add: bool = False) -> bool:
    """Tell whether a configuration has a key; without one, whether some may have it."""
    return _walk(key, data, may_add)[1] is None


def elsewhere(
    word: str, data: Mapping[str, Any] | None = None, above: Sequence[str] = (), *, may_add: bool = True
) -> list[str]:
    """Return the keys anywhere in the configuration whose last name is a word, or nearly: three at most, best first.

    Args:
        word: the last name of a key, such as `lr` or `hiden_size`.
        data: the composed configuration; without one, names of stages, tasks and suites are `NAME`.
        above: the names before the word: of several keys, those that share the most of them are meant.
        may_add: whether a stage or suite that `above` names may be a new one.
    """
    every = {key: key.rpartition(".")[2] for key in [*(leaf.key for leaf in leaves()), *_architecture_keys()]}
    alike = _alike(word, set(every.values()))
    keys = {key for pattern, name in every.items() if name == alike for key in _named(pattern, data, above)}
    if data is not None:
        keys = {key for key in keys if takes(key, data, may_add)}
    shared = {key: _shared(key.split("."), above) for key in keys}
    best = [key for key in keys if shared[key] == max(shared.values())]
    return sorted(best, key=lambda key: (key.count("."), key))[:3]


def _holders(word: str) -> list[str]:
    """Return the keys that have a word among their choices: three at most, the shortest first."""
    found = {leaf.key.replace("*", "NAME") for leaf in leaves() if word in _choices(leaf.annotation)}
    return sorted(found, key=lambda key: (key.count("."), key))[:3]


def _choices(annotation: Any) -> set[Any]:
    args = get_args(annotation)
    return set(args) if get_origin(annotation) is Literal else set().union(*map(_choices, args))


def _alike(word: str, names: set[str]) -> str | None:
    """Return the name that a word is, nearly is, or is with two letters changed over; None without one."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=_ALIKE)
    turned = sorted(name for name in names if sorted(name) == sorted(word))
    return next(iter([*close, *turned]), None)


def _shared(parts: Sequence[str], names: Sequence[str]) -> tuple[int, int]:
    """Return how many names two paths share from their beginning on, and how many anywhere."""
    begin = next((i for i, (one, other) in enumerate(zip(parts, names, strict=False)) if one != other), None)
    return min(len(parts), len(names)) if begin is None else begin, len(set(parts) & set(names))


def _named(pattern: str, data: Any, above: Sequence[str]) -> Iterator[str]:
    """Yield a key for every name of the configuration, and that of `above`, in place of each `*`."""
    head, star, tail = pattern.partition("*")
    if not star:
        yield pattern
        return
    if data is None:
        yield pattern.replace("*", "NAME")
        return
    inside = data
    path = head.rstrip(".").split(".")
    for part in path:
        inside = _item(inside, part)
    found = list(inside) if isinstance(inside, Mapping) else []
    found = [str(index) for index in range(len(inside))] if isinstance(inside, list) else found
    own = [above[len(path)]] if list(above[: len(path)]) == path and len(above) > len(path) else []
    for name in dict.fromkeys([*own, *map(str, found)]):
        yield from _named(f"{head}{name}{tail}", data, above)


@cache
def _architecture_keys() -> tuple[str, ...]:
    """Return the fields of config.json that shipped models name: `model.architecture` itself takes any."""
    found: dict[str, None] = {}
    for file in sorted(SHIPPED_CONF.glob("model/*.yaml")):
        sizes = libyaml.parsed(file.read_text(encoding="utf-8")).get("architecture", {})
        found |= dict.fromkeys(f"model.architecture.{name}" for name in sizes)
    return tuple(found)


def nearest(word: str, known: Sequence[str], cutoff: float = 0.55) -> str | None:
    """Return the known name most like a word, or None if none is close: 1 is the same, 0 has nothing of it."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    if close:
        return close[0]
    longer = [name for name in known if len(word) >= 3 and (name.startswith(word) or name.endswith(word))]
    return longer[0] if longer else None


def fields_of(block: type) -> list[SchemaField]:
    """Return a block's fields, keyed by their names alone."""
    return [SchemaField(n, block, n, _strip(i.annotation), tuple(i.metadata)) for n, i in _declared(block).items()]


def inner_block(annotation: Any, data: Any = None) -> type | None:
    """Return the block that an annotation holds (itself, or the entries of a list or mapping), if just one."""
    blocks = [kind for kind in _inner(annotation, data) if is_block(kind)]
    return blocks[0] if len(blocks) == 1 else None


def leaves(block: type = RunConfig, prefix: str = "", above: tuple[type, ...] = ()) -> Iterator[SchemaField]:
    """Yield every field that holds a value rather than a block; `*` stands for names of stages, tasks and suites.

    Args:
        block: where to begin.
        prefix: of the keys.
        above: the blocks that this one stands in; a block within itself is not entered again.
    """
    for name, info in _declared(block).items():
        key = f"{prefix}{name}"
        blocks = [k for k in _inner(info.annotation) if is_block(k)]
        if not blocks:
            yield SchemaField(key, block, name, _strip(info.annotation), tuple(info.metadata))
        star = ".*" if any(get_origin(kind) in (dict, list) for kind in candidates(info.annotation)) else ""
        for inner in blocks:
            if inner not in above:
                yield from leaves(inner, f"{key}{star}.", (*above, block))


def _inner(annotation: Any, data: Any = None) -> list[Any]:
    found: list[Any] = []
    for kind in candidates(annotation, data):
        if get_origin(kind) in (dict, list):
            found += candidates(get_args(kind)[-1], data)
        else:
            found.append(kind)
    return found


def type_text(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """Say a type in words: `int > 0`, `one of cpu | gpu`, `list of SourceConfig`."""
    bounds = list(constraints)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        bounds += more
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        text = "one of " + " | ".join(str(a) for a in args)
    elif origin in (Union, types.UnionType):
        text = " or ".join("null" if a is type(None) else type_text(a) for a in args)
    elif origin is list:
        text = f"list of {type_text(args[0])}"
    elif origin is dict:
        text = "mapping of name to " + ("any value" if args[1] is Any else type_text(args[1]))
    else:
        words: dict[Any, str] = {bool: "true | false", Settings: "a verifier's settings, with their kind"}
        text = words.get(annotation, getattr(annotation, "__name__", str(annotation)))
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{sign} {getattr(b, a)}" for b in bounds for a, sign in signs.items() if getattr(b, a, None) is not None]
    return f"{text} {' and '.join(limits)}" if limits else text
