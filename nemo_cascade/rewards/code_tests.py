"""Read the tests of a coding problem from the formats that public sets use."""

from __future__ import annotations

import base64
import builtins
import io
import json
import pickle
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nemo_cascade.rewards.verifier import VerifierError, field_of


@dataclass(frozen=True, slots=True)
class StdioTest:
    """A whole program's input and the output it must print."""

    stdin: str
    expected: str


@dataclass(frozen=True, slots=True)
class CallTest:
    """A call's arguments and the values of which it must return one (a set may not say whether it wraps them)."""

    arguments: tuple[Any, ...]
    expected: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one problem; exactly one of the three kinds.

    Attributes:
        stdio: runs of the whole program.
        calls: calls of `entry_point` (a function, or a method of a class `Solution`).
        asserts: Python tests; one that defines `check(candidate)` is called with `entry_point`.
        entry_point: the function under test, or empty.
        setup: code that runs before the asserts.
        preamble: the problem's own code, which the program may continue (HumanEval's prompt).
    """

    stdio: tuple[StdioTest, ...] = ()
    calls: tuple[CallTest, ...] = ()
    asserts: tuple[str, ...] = ()
    entry_point: str = ""
    setup: str = ""
    preamble: str = ""


def read_tests(record: Mapping[str, Any]) -> CodeTests:
    """Return the tests of a row.

    Formats: `tests` (a list of {"stdin", "expected"}, of {"arguments", "expected"} with `entry_point`, or of asserts);
    `input_output` of APPS, TACO and DeepCoder; `public_test_cases` and `private_test_cases` of LiveCodeBench;
    `test` and `entry_point` of HumanEval; `test_list` of MBPP.

    Raises:
        VerifierError: there are no tests, or they can't be read (kind `record`).
    """
    readers = {
        "tests": _own,
        "input_output": _apps,
        "private_test_cases": _livecodebench,
        "public_test_cases": _livecodebench,
        "test_list": _mbpp,
        "test": _humaneval,
    }
    for name, reader in readers.items():
        if record.get(name) not in (None, "", []):
            tests = reader(record)
            if not (tests.stdio or tests.calls or tests.asserts):
                _refuse(f"field {name!r} holds no test")
            return tests
    _refuse(f"a coding problem needs one of the fields {', '.join(readers)}")


def _refuse(detail: str) -> NoReturn:
    raise VerifierError("record", detail)


def _json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise VerifierError("record", f"field {name!r} is no JSON: {error}") from error


def _text(value: Any) -> str:
    """Join lines; numbers and other values become their JSON text."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(_text(line) for line in value)
    return json.dumps(value)


def _own(record: Mapping[str, Any]) -> CodeTests:
    tests = _json(record["tests"], "tests")
    if not isinstance(tests, Sequence):
        _refuse("field 'tests' must be a list")
    entry = str(record.get("entry_point") or "")
    if all(isinstance(test, str) for test in tests):
        return CodeTests(asserts=tuple(tests), entry_point=entry, setup=str(record.get("setup") or ""))
    if all(isinstance(test, Mapping) and "stdin" in test and "expected" in test for test in tests):
        return CodeTests(stdio=tuple(StdioTest(_text(t["stdin"]), _text(t["expected"])) for t in tests))
    if all(isinstance(test, Mapping) and "arguments" in test and "expected" in test for test in tests) and entry:
        return CodeTests(
            calls=tuple(CallTest(tuple(t["arguments"]), (t["expected"],)) for t in tests), entry_point=entry
        )
    _refuse("field 'tests' must hold {stdin, expected}, {arguments, expected} with entry_point, or asserts")


def _apps(record: Mapping[str, Any]) -> CodeTests:
    pairs = _json(record["input_output"], "input_output")
    if not isinstance(pairs, Mapping):
        _refuse("field 'input_output' must be a dictionary")
    inputs, outputs = field_of(pairs, "inputs", list), field_of(pairs, "outputs", list)
    if len(inputs) != len(outputs):
        _refuse(f"{len(inputs)} inputs but {len(outputs)} outputs")
    entry = str(pairs.get("fn_name") or "")
    if not entry:
        stdio = [StdioTest(_text(i), _text(o)) for i, o in zip(inputs, outputs, strict=True)]
        return CodeTests(stdio=tuple(stdio))
    calls = []
    for arguments, output in zip(inputs, outputs, strict=True):
        given = _json(arguments, "inputs") if isinstance(arguments, str) else arguments
        # Most rows wrap the one returned value in a list, some don't.
        expected = (output[0], output) if isinstance(output, list) and len(output) == 1 else (output,)
        calls.append(CallTest(tuple(given) if isinstance(given, list) else (given,), expected))
    return CodeTests(calls=tuple(calls), entry_point=entry)


def _livecodebench(record: Mapping[str, Any]) -> CodeTests:
    cases = [*_cases(record.get("public_test_cases")), *_cases(record.get("private_test_cases"))]
    if not all(isinstance(case, Mapping) and "input" in case and "output" in case for case in cases):
        _refuse("each test case must have 'input' and 'output'")
    if all(case.get("testtype", "stdin") == "stdin" for case in cases):
        return CodeTests(stdio=tuple(StdioTest(str(c["input"]), str(c["output"])) for c in cases))
    metadata = _json(record.get("metadata") or {}, "metadata")
    entry = str(metadata.get("func_name") or record.get("entry_point") or "")
    if not entry:
        _refuse("functional test cases need metadata.func_name")
    calls = []
    for case in cases:
        lines = [line for line in str(case["input"]).split("\n") if line.strip()]
        expected = (_json(str(case["output"]), "output"),)
        calls.append(CallTest(tuple(_json(line, "input") for line in lines), expected))
    return CodeTests(calls=tuple(calls), entry_point=entry)


class _TextOnly(pickle.Unpickler):
    """Reads a pickled text; a pickle that names any class or function is refused, so none can run."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse whatever a pickle wants to look up."""
        raise VerifierError("record", f"a pickled test case names {module}.{name}")


def _cases(field: Any) -> list[Any]:
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


def _humaneval(record: Mapping[str, Any]) -> CodeTests:
    entry = field_of(record, "entry_point", str)
    test = field_of(record, "test", str)
    return CodeTests(asserts=(test,), entry_point=entry, preamble=str(record.get("prompt") or ""))


def _mbpp(record: Mapping[str, Any]) -> CodeTests:
    tests = _json(record["test_list"], "test_list")
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        _refuse("field 'test_list' must be a list of asserts")
    imports = record.get("test_imports") or []
    setup = "\n".join([*imports, str(record.get("test_setup_code") or "")])
    return CodeTests(asserts=tuple(tests), setup=setup)


def restore_builtins(tests: CodeTests) -> str:
    """Return code that gives built-in names back to the tests, whatever a program defines under them.

    Otherwise a program that defines `abs` or `len` would decide the comparisons that use them. Only the function
    under test may carry a built-in's name: the entry point, or the one function that asserts call where they call
    nothing but built-in names.
    """
    if tests.entry_point:
        kept = {tests.entry_point}
    else:
        called = [re.findall(r"\b([a-zA-Z_]\w*)\s*\(", test) for test in tests.asserts]
        own = {name for names in called for name in names if not hasattr(builtins, name)}
        kept = set() if own else {names[0] for names in called if names}
    return (
        "import builtins as _builtins\n"
        "_builtins.globals().update({name: value for name, value in _builtins.vars(_builtins).items() "
        f"if name[:2] != '__' and name not in {sorted(kept)!r}}})\n"
    )


def with_preamble(program: str, tests: CodeTests) -> str:
    """Complete a program with the problem's own code.

    A program that defines the entry point itself gets what stands before it there (imports, helper functions); one
    that doesn't is taken as the continuation of the problem's code.
    """
    if not tests.preamble:
        return program
    definition = re.compile(rf"^(?:async\s+)?def\s+{re.escape(tests.entry_point)}\b", re.MULTILINE)
    if definition.search(program) is None:
        return tests.preamble.rstrip("\n") + "\n" + program
    own = definition.search(tests.preamble)
    return (tests.preamble[: own.start()] if own else "") + program
