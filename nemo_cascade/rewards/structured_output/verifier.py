"""Structured output: the whole answer is one JSON, YAML, XML, TOML or CSV text that fits a strict schema.

Rows are those of NeMo Gym's `structured_outputs` server: `schema_str` (a JSON schema as text), `schema_type`,
`response_mode` (`text`, or `tool_call`: the value is the arguments of the one call, perhaps of `tool_name`, perhaps
below `tool_payload_key`). The schema is made strict: every property is required and no other allowed, also inside of
lists of alternatives, which that server passes over. What the values say isn't judged.
"""

import csv
import io
import json
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.structured_output.structure import StructureError, read_xml, read_yaml, typed, typed_rows
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "integer"}}},
    }
)
# The outermost element is a property like any other.
_XML_SCHEMA = json.dumps({"type": "object", "properties": {"p": json.loads(_SCHEMA)}})
_CSV_SCHEMA = json.dumps({"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}})


def _row(kind: str, schema: str = _SCHEMA, **more: Any) -> dict[str, Any]:
    return {"schema_str": schema, "schema_type": kind, **more}


_TOOL = {"name": "answer", "parameters": {"properties": {"value": {"type": "object"}}, "required": ["value"]}}
_CALLED = _row("json", response_mode="tool_call", tool_name="answer", tool_payload_key="value", tools=[_TOOL])


class StructuredOutputVerifier:
    """Score 1 where the answer is nothing but a value that fits the row's schema, else 0.

    Args:
        coerce_xml: read the texts of XML as the numbers and truth values that the schema asks for; CSV always is.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden('<think>{}</think>\n{"name": "a", "ages": [1, 2]}', 1.0, _row("json")),
        Golden('{"name": "a"}', 0.0, _row("json")),
        Golden('{"name": "a", "ages": [], "more": 1}', 0.0, _row("json")),
        Golden('{"name": "a", "ages": [true]}', 0.0, _row("json")),
        Golden('```json\n{"name": "a", "ages": []}\n```', 0.0, _row("json")),
        Golden('{"name": "a", "ages": [NaN]}', 0.0, _row("json")),
        Golden('{"name": "a", "name": "b", "ages": []}', 0.0, _row("json")),
        Golden("name: a\nages: [1]", 1.0, _row("yaml")),
        Golden("name: &x a\nages: [*x]", 0.0, _row("yaml")),
        Golden("<p><name>a</name><ages><age>1</age><age>2</age></ages></p>", 1.0, _row("xml", _XML_SCHEMA)),
        Golden("<p><name>a</name><ages>one</ages></p>", 0.0, _row("xml", _XML_SCHEMA)),
        Golden('<!DOCTYPE r [<!ENTITY x "y">]><p><name>&x;</name><ages/></p>', 0.0, _row("xml", _XML_SCHEMA)),
        Golden('name = "a"\nages = [3]', 1.0, _row("toml")),
        Golden("n\n1\n2", 1.0, _row("csv", _CSV_SCHEMA)),
        Golden("n\n1\nx", 0.0, _row("csv", _CSV_SCHEMA)),
        Golden("n\n1,2", 0.0, _row("csv", _CSV_SCHEMA)),
        Golden(
            '<tool_call>\n{"name": "answer", "arguments": {"value": {"name": "a", "ages": []}}}\n</tool_call>',
            1.0,
            _CALLED,
        ),
        Golden('{"name": "a", "ages": []}', 0.0, _CALLED),
        Golden("", 0.0, _row("json")),
        Golden("", None, _row("json", "{"), error="record"),
        Golden("", None, _row("ini"), error="record"),
    )

    def __init__(self, coerce_xml: bool = True) -> None:
        self._coerce_xml = coerce_xml
        import jsonschema  # noqa: F401  once for all workers that are forked later

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return 1 or 0, with what is wrong; see `Verifier.verify`."""
        schema, kind = read_schema(record)
        answer = split_response(response.text).answer
        if answer is None:
            return Score(0.0, "empty: thinking never ended")
        if not answer.strip():
            return Score(0.0, "empty")
        try:
            if record.get("response_mode", "text") == "tool_call":
                value = _called(record, answer)
            else:
                value = self._value(answer.strip(), schema, kind)
        except StructureError as error:
            return Score(0.0, f"parse: {error}")
        problem = problem_of(value, schema)
        return Score(0.0, f"validation: {problem}") if problem else Score(1.0)

    def _value(self, text: str, schema: Mapping[str, Any], kind: str) -> Any:
        try:
            value = _PARSERS[kind](text)
        except StructureError:
            raise
        except (ValueError, csv.Error, RecursionError) as error:
            raise StructureError(f"{type(error).__name__}: {str(error)[:200]}") from error
        if kind == "csv":
            return typed_rows(value, schema)
        return typed(value, schema) if kind == "xml" and self._coerce_xml else value


def read_schema(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return a row's schema, made strict, and the kind of text that is due.

    Raises:
        VerifierError: no schema that can be read, or another kind (kind `record`).
    """
    from jsonschema import Draft202012Validator, SchemaError

    kind = str(record.get("schema_type") or "json").lower()
    if kind not in _PARSERS:
        raise VerifierError("record", f"field 'schema_type' is {kind!r}, not one of {', '.join(_PARSERS)}")
    try:
        schema = json.loads(field_of(record, "schema_str", str))
        if not isinstance(schema, dict):
            raise VerifierError("record", "field 'schema_str' is no schema but a JSON value")
        schema = strict(schema)
        Draft202012Validator.check_schema(schema)
    except (ValueError, RecursionError) as error:
        raise VerifierError("record", f"field 'schema_str' is broken JSON: {error}") from error
    except SchemaError as error:
        raise VerifierError("record", f"field 'schema_str' is no schema: {error.message[:200]}") from error
    return schema, kind


def strict(schema: Any) -> Any:
    """Return a schema under which every property is required and no other allowed, throughout."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), Mapping):
        # A property may itself be called `properties`: its schema is one level below.
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        made |= {"required": list(schema["properties"]), "additionalProperties": False}
    return made


def problem_of(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Say why a value doesn't fit; None if it does."""
    from jsonschema import Draft202012Validator

    try:
        error = next(iter(Draft202012Validator(schema).iter_errors(value)), None)
    except RecursionError:
        return "it is nested too deeply"
    return None if error is None else f"{error.json_path}: {error.message[:200]}"


def _called(record: Mapping[str, Any], answer: str) -> Any:
    from nemo_cascade.data.chat.tool_calls import read_calls

    _, calls = read_calls(answer, record.get("tools") or [])
    if len(calls) != 1 or calls[0].problem:
        raise StructureError(calls[0].problem or f"{len(calls)} calls" if calls else "no call")
    name, payload = record.get("tool_name"), record.get("tool_payload_key")
    if name and calls[0].name != name:
        raise StructureError(f"{calls[0].name} is called, {name} is due")
    if not payload:
        return dict(calls[0].arguments)
    if payload not in calls[0].arguments:
        raise StructureError(f"the call has no {payload}")
    return calls[0].arguments[payload]


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)


def _csv(text: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row has more or fewer fields than the header")
    return rows


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "json": _json,
    "yaml": read_yaml,
    "xml": read_xml,
    "toml": tomllib.loads,
    "csv": _csv,
}
