"""Texts of YAML, XML and CSV as the values that a JSON schema speaks of; what could blow up is refused."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import yaml

# References would let a short text stand for an endless value.
_DOCTYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_MOST_DIGITS = 400


class StructureError(Exception):
    """A text that isn't what it should be; its words say why."""


class _Loader(yaml.SafeLoader):
    """YAML without references to earlier parts and without a key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias; see yaml.composer."""
        if self.check_event(yaml.AliasEvent):
            raise StructureError("an alias; every value is to be written out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands twice; see yaml.constructor."""
        keys = [key.value for key, _ in node.value]
        if len(set(map(str, keys))) != len(keys):
            raise StructureError("a key stands twice")
        return super().construct_mapping(node, deep=deep)


# Dates are texts, as JSON has them.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """Read one YAML document.

    Raises:
        StructureError: it is none, or refers to parts of itself.
    """
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except yaml.YAMLError as error:
        raise StructureError(str(error).replace("\n", " ")[:200]) from error


def read_xml(text: str) -> dict[str, Any]:
    """Read an XML document as {outermost tag: content}.

    An element without others inside is its text (None if it has none); with others a mapping, attributes as `@name`,
    text as `#text`; elements of one name become a list.

    Raises:
        StructureError: it is none, or defines entities.
    """
    if _DOCTYPE.search(text):
        raise StructureError("a document type; entities may not be defined")
    try:
        root = ElementTree.fromstring(text)
        return {root.tag: _content(root)}
    except ElementTree.ParseError as error:
        raise StructureError(str(error)) from error


def _content(element: ElementTree.Element) -> Any:
    children: dict[str, Any] = {f"@{name}": value for name, value in element.attrib.items()}
    texts = [element.text or ""]
    for child in element:
        value = _content(child)
        texts.append(child.tail or "")
        if child.tag not in children:
            children[child.tag] = value
        elif isinstance(children[child.tag], _Several):
            children[child.tag].append(value)
        else:
            children[child.tag] = _Several([children[child.tag], value])
    text = "".join(texts).strip()
    if not children:
        return text or None
    return {**children, "#text": text} if text else children


class _Several(list[Any]):
    """What elements of the same name hold."""


def typed(value: Any, schema: Any) -> Any:
    """Return what XML holds with the types that a schema asks for; what can't be read so stays as it is."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "object" and isinstance(value, Mapping):
        properties = schema.get("properties") or {}
        return {name: typed(part, properties.get(name)) for name, part in value.items()}
    if kind == "array":
        # <ages><age>1</age><age>2</age></ages> holds a list, and so does it with one age or none.
        if isinstance(value, Mapping) and len(value) == 1:
            value = next(iter(value.values()))
        parts = value if isinstance(value, list) else [] if value is None else [value]
        return [typed(part, schema.get("items")) for part in parts]
    if value is None and kind == "string":
        return ""
    return scalar(value, kind)


def typed_rows(rows: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of CSV with the types that a schema of rows, or of a list of them, asks for."""
    row = schema.get("items") if isinstance(schema.get("items"), Mapping) else schema
    properties = (row or {}).get("properties") or {}
    return [
        {name: scalar(text, (properties.get(name) or {}).get("type")) for name, text in given.items()} for given in rows
    ]


def scalar(text: Any, kind: Any) -> Any:
    """Return a text as a number, a truth value or nothing, where it is one of what `kind` names; else as it is."""
    kinds = [kind] if isinstance(kind, str) else list(kind or ())
    if not isinstance(text, str) or len(text) > _MOST_DIGITS:
        return text
    if not text:
        return None if "null" in kinds else text
    for name in kinds:
        if name == "boolean" and text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        try:
            if name in ("integer", "number") and "_" not in text:
                return int(text) if name == "integer" or text.lstrip("+-").isdigit() else _finite(text)
        except ValueError:
            continue
    return text


def _finite(text: str) -> float:
    number = float(text)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("not a number")
    return number
