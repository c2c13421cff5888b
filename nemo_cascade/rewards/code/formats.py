"""Read the tests of a coding problem from the formats that public sets use."""

import base64
import io
import json
import pickle
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from nemo_cascade.rewards.code.output import OutputRule
from nemo_cascade.rewards.code.tests import CallTest, CodeTests, StdioTest, assert_something, is_code
from nemo_cascade.rewards.verifier import VerifierError, field_of

_HOLDERS = ("verification_info", "verifier_metadata", "reward_model")
_BESIDE = ("entry_point", "module", "validator_flags")  # may stand beside the holder
# What a contestant sees of a row's tests -> the field that they are read from alone.
_VISIBLE = {
    "visible_tests": "tests",
    "public_test_cases": "public_test_cases",
    "public_tests": "public_tests",
    "examples": "public_tests",
}
_FUNCTIONAL = ("functional", "function_call", "call_based")
_WHOLE_NUMBER = re.compile(r"-?\d+")


def read_tests(record: Mapping[str, Any]) -> CodeTests:
    """Return the tests of a row.

    Formats: `tests` (a list of {"stdin", "expected"}, of {"arguments", "expected"} with `entry_point`, or of asserts);
    `input_output` of APPS, TACO and DeepCoder; `public_test_cases` and `private_test_cases` of LiveCodeBench;
    `public_tests`, `private_tests` and `generated_tests` of CodeContests; `official_tests` of open-r1's Codeforces;
    `test` of HumanEval and LeetCodeDataset (with `entry_point`), KodCode and BigCodeBench (without); `test_list` of
    MBPP; `test_cases` of AceCode and SYNTHETIC-1; `ground_truth` and `unit_tests` of PRIME, verl and NeMo Gym, and what
    `verification_info`, `verifier_metadata` or `reward_model` hold of these.

    Tests as text may import the program as `solution`, or as the row's `module` says. A row of a problem package brings
    its own rule of comparison: `validator_flags`, the text that its `problem.yaml` has there, or an empty one.

    Raises:
        VerifierError: there are no tests, they can't be read, or nothing in them could fail (kind `record`).
    """
    for name, reader in _READERS.items():
        if record.get(name) in (None, "", [], {}):
            continue
        if name == "input_output" and record.get("test") and isinstance(record.get("entry_point"), str):
            continue  # LeetCodeDataset has both, the first one for people
        tests = reader(record, name)
        if not (tests.stdio or tests.calls or tests.asserts):
            _refuse(f"field {name!r} holds no test")
        if tests.asserts and not assert_something(tests):
            _refuse(f"nothing in field {name!r} could fail: it asserts nothing")
        return replace(tests, rule=_own_rule(record))
    for holder in _HOLDERS:
        inner = _json(record[holder], holder) if record.get(holder) else None
        if isinstance(inner, Mapping):
            return read_tests({**{key: record[key] for key in _BESIDE if key in record}, **inner})
    _refuse(f"a coding problem needs one of the fields {', '.join(_READERS)}")


def visible_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the tests that whoever writes a program for it may not see.

    They are `visible_tests` (in any shape that `tests` may have), the public ones of LiveCodeBench and CodeContests, or
    the examples of Codeforces.

    Raises:
        VerifierError: it has none, or no others beside them (kind `record`).
    """
    shown = next((name for name in _VISIBLE if record.get(name) not in (None, "", [], {})), None)
    if shown is None:
        _refuse(f"no test of the row may be seen: it needs one of {', '.join(_VISIBLE)}")
    tests = {*_READERS, *_HOLDERS, *_VISIBLE, "generated_tests"}
    if not any(record.get(name) not in (None, "", [], {}) for name in tests - {shown}):
        _refuse(f"all tests of the row may be seen: it has none beside {shown!r}")
    return {name: value for name, value in record.items() if name not in tests} | {_VISIBLE[shown]: record[shown]}


def _own_rule(record: Mapping[str, Any]) -> OutputRule | None:
    flags = record.get("validator_flags")
    if flags is None:
        return None
    try:
        return OutputRule.of_package(field_of(record, "validator_flags", str))
    except ValueError as error:
        raise VerifierError("record", f"field 'validator_flags': {error}") from error


def _refuse(detail: str) -> NoReturn:
    raise VerifierError("record", detail)


def _json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise VerifierError("record", f"field {name!r} is no JSON: {error}") from error


def _text(value: Any) -> str:
    """Join lines; numbers and other values become their JSON text."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(_text(line) for line in value)
    return json.dumps(value)


def _modules(record: Mapping[str, Any]) -> tuple[str, ...]:
    named = record.get("module")
    return ("solution", named) if isinstance(named, str) and named.isidentifier() else ("solution",)


def _any_shape(record: Mapping[str, Any], name: str) -> CodeTests:
    """Read tests by their shape: sets give the same shapes under several names."""
    given = record[name]
    if isinstance(given, str) and not given.lstrip().startswith(("[", "{")):
        return _suite(record, given)
    tests = _json(given, name)
    if isinstance(tests, Mapping):
        return _parallel_lists(tests)
    if not isinstance(tests, Sequence):
        _refuse(f"field {name!r} must be a list or a dictionary")
    if all(isinstance(test, str) for test in tests):
        setup = str(record.get("setup") or "")
        entry = str(record.get("entry_point") or "")
        return CodeTests(asserts=tuple(tests), entry_point=entry, setup=setup, modules=_modules(record))
    if not all(isinstance(test, Mapping) for test in tests):
        _refuse(f"field {name!r} must hold asserts or dictionaries")
    return _cases(record, name, tests)


def _cases(record: Mapping[str, Any], name: str, cases: Sequence[Mapping[str, Any]]) -> CodeTests:
    if all("stdin" in case and "expected" in case for case in cases):
        return CodeTests(stdio=tuple(StdioTest(_text(case["stdin"]), _text(case["expected"])) for case in cases))
    if all("arguments" in case and "expected" in case for case in cases) and record.get("entry_point"):
        calls = tuple(CallTest(tuple(case["arguments"]), (case["expected"],)) for case in cases)
        return CodeTests(calls=calls, entry_point=str(record["entry_point"]))
    if not all("input" in case and "output" in case for case in cases):
        _refuse(
            f"field {name!r} must hold {{stdin, expected}}, {{input, output}}, or {{arguments, expected}} (entry_point)"
        )
    kinds = {str(case.get("testtype") or case.get("type") or "stdin") for case in cases}
    if not kinds & set(_FUNCTIONAL):
        return CodeTests(stdio=tuple(StdioTest(_text(case["input"]), _text(case["output"])) for case in cases))
    entry = next((str(case["fn_name"]) for case in cases if case.get("fn_name")), "") or _function_name(record, cases)
    return CodeTests(calls=tuple(_call(case["input"], case["output"]) for case in cases), entry_point=entry)


def _function_name(record: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> str:
    for holder in (record, *cases):
        metadata = _json(holder.get("metadata") or {}, "metadata")
        if isinstance(metadata, Mapping) and metadata.get("func_name"):
            return str(metadata["func_name"])
    if not record.get("entry_point"):
        _refuse("functional test cases need metadata.func_name")
    return str(record["entry_point"])


def _parallel_lists(pairs: Mapping[str, Any]) -> CodeTests:
    """Read {"inputs", "outputs"}, with "fn_name" where a function is called; CodeContests has the singular."""
    if "assert_case" in pairs:
        return CodeTests(asserts=tuple(map(str, field_of(pairs, "assert_case", list))))
    singular = "inputs" not in pairs and "input" in pairs
    inputs, outputs = (field_of(pairs, name if singular else f"{name}s", list) for name in ("input", "output"))
    if len(inputs) != len(outputs):
        _refuse(f"{len(inputs)} inputs but {len(outputs)} outputs")
    entry = str(pairs.get("fn_name") or "")
    both = list(zip(inputs, outputs, strict=True))
    if not entry:
        return CodeTests(stdio=tuple(StdioTest(_text(given), _text(due)) for given, due in both))
    return CodeTests(calls=tuple(_call(given, due) for given, due in both), entry_point=entry)


def _call(given: Any, due: Any) -> CallTest:
    """Read a call.

    A text holds one argument in JSON a line, as LiveCodeBench has it, and the output is JSON, too. A list holds the
    arguments as they are, as in APPS: there JSON has made texts of whole numbers that were keys, which are turned back.
    """
    if isinstance(given, str):
        arguments = _lines(given)
        return CallTest(tuple(arguments), (_lenient(due) if isinstance(due, str) else due,))
    expected = (due[0], due) if isinstance(due, list) and len(due) == 1 else (due,)  # some rows wrap the value
    turned = _whole_number_keys(given)
    return CallTest(tuple(turned) if isinstance(turned, list) else (turned,), expected)


def _lines(text: str) -> list[Any]:
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        return [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        whole = _json(text, "inputs")
        return whole if isinstance(whole, list) else [whole]


def _lenient(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _whole_number_keys(value: Any) -> Any:
    if isinstance(value, list):  # most are long lists of plain values
        return [_whole_number_keys(item) if isinstance(item, list | dict) else item for item in value]
    if not isinstance(value, dict):
        return value
    whole = bool(value) and all(isinstance(key, str) and _WHOLE_NUMBER.fullmatch(key) for key in value)
    return {int(key) if whole else key: _whole_number_keys(item) for key, item in value.items()}


def _livecodebench(record: Mapping[str, Any], _: str) -> CodeTests:
    names = ("public_test_cases", "private_test_cases")
    cases = [case for name in names for case in _unpacked(record.get(name))]
    if not all(isinstance(case, Mapping) and "input" in case and "output" in case for case in cases):
        _refuse("each test case must have 'input' and 'output'")
    return _cases(record, "test_cases", cases)


def _codecontests(record: Mapping[str, Any], _: str) -> CodeTests:
    names = ("public_tests", "private_tests", "generated_tests", "examples", "official_tests")
    given = {name: record[name] for name in names if record.get(name)}
    stdio = [test for name in given for test in _any_shape(given, name).stdio]
    return CodeTests(stdio=tuple(stdio))


class _TextOnly(pickle.Unpickler):
    """Reads a pickled text; a pickle that names any class or function is refused, so none can run."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse whatever a pickle wants to look up."""
        raise VerifierError("record", f"a pickled test case names {module}.{name}")


def _unpacked(field: Any) -> list[Any]:
    if field in (None, "", []):
        return []
    if isinstance(field, str) and not field.lstrip().startswith("["):  # LiveCodeBench's packed form
        try:
            field = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(field)))).load()
        except (ValueError, zlib.error, pickle.UnpicklingError, EOFError) as error:
            raise VerifierError("record", f"packed test cases can't be read: {error}") from error
    cases = _json(field, "test_cases")
    if not isinstance(cases, list):
        _refuse("test cases must be a list")
    return cases


def _test(record: Mapping[str, Any], name: str) -> CodeTests:
    return _suite(record, field_of(record, name, str))


def _suite(record: Mapping[str, Any], text: str) -> CodeTests:
    """Read one text of tests; the problem's own code stands in `code_prompt` or `prompt`, which may be prose, too."""
    entry = str(record.get("entry_point") or "")
    own = record.get("code_prompt") or record.get("prompt")
    preamble = own if isinstance(own, str) and entry and is_code(own) else ""
    if not entry and "def check(" in text and not re.search(r"^check\(", text, re.MULTILINE):
        _refuse("tests that define check() need an entry_point")
    return CodeTests(asserts=(text,), entry_point=entry, preamble=preamble, modules=_modules(record))


def _mbpp(record: Mapping[str, Any], name: str) -> CodeTests:
    tests = _json(record[name], name)
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        _refuse(f"field {name!r} must be a list of asserts")
    imports = record.get("test_imports") or []
    setup = "\n".join([*imports, str(record.get("test_setup_code") or "")])
    return CodeTests(asserts=tuple(tests), setup=setup, modules=_modules(record))


_READERS: dict[str, Callable[[Mapping[str, Any], str], CodeTests]] = {
    "tests": _any_shape,
    "input_output": _any_shape,
    "private_test_cases": _livecodebench,
    "public_test_cases": _livecodebench,
    "test_list": _mbpp,
    "test": _test,
    "test_cases": _any_shape,
    "unit_tests": _any_shape,
    "ground_truth": _any_shape,
    "official_tests": _codecontests,
    "private_tests": _codecontests,
    "public_tests": _codecontests,
}
