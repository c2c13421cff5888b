"""Our constraints against other people's code, taken from folders that environment variables name.

IFEVAL_FOLDER   holds instruction_following_eval/ and test/instructions_test.py (josejg/instruction_following_eval)
IF_RLVR_FOLDER  holds IFEvalG/ (allenai/open-instruct, open_instruct/IFEvalG)
"""

import importlib
import itertools
import json
import os
import random
import sys
import types
import unittest
from pathlib import Path

import pytest

from nemo_cascade.rewards.constraints.following import Constraint, follows
from nemo_cascade.rewards.constraints.iftrain import IFTRAIN

pytestmark = pytest.mark.bench
EXPLAINED = Path(__file__).with_name("if_rlvr_disagreements.jsonl")
READINGS = ("words", "reference")


def folder(variable):
    if not (path := os.environ.get(variable)):
        pytest.skip(f"{variable} names no folder")
    return Path(path)


@pytest.fixture
def absl(monkeypatch):
    """Stand in for the few names of absl that the files import."""

    class Parameterized(unittest.TestCase):
        def __init_subclass__(cls):
            for name, method in list(vars(cls).items()):
                for number, case in enumerate(getattr(method, "cases", ())):
                    given = {key: value for key, value in case.items() if key != "testcase_name"}
                    setattr(cls, f"{name}_{number}", lambda self, m=method, g=given: m(self, **g))
                    if hasattr(cls, name):
                        delattr(cls, name)

    def named_parameters(*cases):
        flat = cases[0] if len(cases) == 1 and isinstance(cases[0], list) else cases

        def decorate(method):
            method.cases = list(flat)
            return method

        return decorate

    modules = {name: types.ModuleType(name) for name in ("absl", "absl.testing", "absl.testing.absltest",
                                                         "absl.testing.parameterized", "absl.logging")}  # fmt: skip
    modules["absl"].logging = modules["absl.logging"]
    modules["absl.testing"].absltest = modules["absl.testing.absltest"]
    modules["absl.testing"].parameterized = modules["absl.testing.parameterized"]
    modules["absl.logging"].error = modules["absl.logging"].info = lambda *told: None
    vars(modules["absl.testing.parameterized"]).update(TestCase=Parameterized, named_parameters=named_parameters)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("absl")
@pytest.mark.parametrize("reading", READINGS)
def test_googles_own_tests_pass(monkeypatch, capsys, reading):
    root = folder("IFEVAL_FOLDER")
    monkeypatch.syspath_prepend(str(root))
    package = types.ModuleType("instruction_following_eval")
    package.__path__ = [str(root / "instruction_following_eval")]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    registry = importlib.import_module("instruction_following_eval.instructions_registry")
    names, judged = {checker: name for name, checker in registry.INSTRUCTION_DICT.items()}, []
    for checker in names:

        def check(self, value):
            arguments = {key: item for key, item in (self.get_instruction_args() or {}).items() if item is not None}
            judged.append(names[type(self)])
            return follows(value, Constraint(names[type(self)], arguments), "strict", reading)

        monkeypatch.setattr(checker, "check_following", check)
    monkeypatch.syspath_prepend(str(root / "test"))
    tests = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module("instructions_test"))
    result = unittest.TestResult()
    tests.run(result)
    failed = {name: text.strip().splitlines()[-1] for name, text in [*result.failures, *result.errors]}
    with capsys.disabled():
        print(f"\nGoogle's tests of IFEval, reading={reading}: {len(judged)} verdicts asked for; failed: {failed}")
    assert failed == {}
    monkeypatch.delitem(sys.modules, "instructions_test")


RELATIONS = ("at least", "less than")
ARGUMENTS = {
    "keywords:existence": [{"keywords": ["river", "boat"]}],
    "keywords:frequency": [{"keyword": "the", "frequency": 2, "relation": relation} for relation in RELATIONS],
    "keywords:forbidden_words": [{"forbidden_words": ["boat"]}],
    "keywords:letter_frequency": [{"letter": "t", "let_frequency": 4, "let_relation": r} for r in RELATIONS],
    "language:response_language": [{"language": "en"}],
    "length_constraints:number_paragraphs": [{"num_paragraphs": number} for number in (2, 3)],
    "length_constraints:number_words": [{"num_words": 6, "relation": relation} for relation in RELATIONS],
    "length_constraints:nth_paragraph_first_word": [{"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "the"}],
    "detectable_content:number_placeholders": [{"num_placeholders": 2}],
    "detectable_content:postscript": [{"postscript_marker": "P.S."}],
    "detectable_format:number_bullet_lists": [{"num_bullets": number} for number in (1, 2)],
    "detectable_format:number_highlighted_sections": [{"num_highlights": number} for number in (1, 2)],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": 2}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "The river"}],
    "startend:end_checker": [{"end_phrase": "the end."}],
    "change_case:capital_word_frequency": [{"capital_frequency": 2, "capital_relation": r} for r in RELATIONS],
    "keywords:word_once": [{"keyword": "river"}],
    "keywords:word_count_different_numbers": [{"keyword": "the", "frequency": 2, "relation": r} for r in RELATIONS],
    "keywords:exclude_word_harder": [{"keyword": "boat"}],
    "keywords:keyword_specific_position": [{"keyword": "boat", "n": 1, "m": 3}],
    "letters:letter_counting": [{"N": 20, "relation": relation} for relation in RELATIONS],
    "letters:letter_counting2": [{"letter": "t", "let_frequency": 4, "let_relation": r} for r in RELATIONS],
    "first_word:first_word_sent": [{"first_word": "the"}],
    "first_word:first_word_answer": [{"first_word": "the"}],
    "last_word:last_word_sent": [{"last_word": "river"}],
    "last_word:last_word_answer": [{"last_word": "river"}],
    "copy:copy": [{"prompt_to_repeat": "Copy the river."}],
    "copy:copying_simple": [{"prompt_to_repeat": "Copy the river."}],
    "copy:copying_multiple": [{"prompt_to_repeat": "Copy the river.", "N": 2}],
    "new:copy_span_idx": [{"prompt_to_repeat": "Copy the river.", "n_start": 5, "n_end": 7}],
    "copy:repeat_phrase": [{"phrase": "the river runs by", "small_n": 1}],
    "count:lowercase_counting": [{"N": 3}],
    "count:counting_composition": [{"n_sent": 1, "n_words": 3}],
    "count:count_increment_word": [{"keyword1": "river", "keyword2": "boat"}],
}
TEXTS = [
    "The river runs by the boat.",
    "The boat and the boater, the riverbed and the river.",
    "Boat? Boat! The river.",
    "I don't know the end.",
    "**It is the end.**",
    "“It is the end.”",
    '"The river runs."',
    "the end",
    "THE RIVER RUNS ON",
    "Rivers. The river runs by the river.",
    "The first one.\n\nThe second one.",
    "One.\n\n\n\nThe second.",
    "One.\n\n“The” two.",
    "Intro\n\n---\n\n* one\n* two",
    "*Note:* read\n* one\n* two",
    "-5 degrees\n- one\n- two",
    "3*4*5 = 60",
    "*one* and **two**",
    "42",
    '{"a": 1}',
    "[1, 2]",
    '"text"',
    "One *** two",
    "One.\n* * *\nTwo.\n* * *\nThree.",
    "I like it\n***\nYou like it\n***\nWe like it",
    "I like it.\n* * *\nYou like it.\n* * *\nWe like it.",
    "a (b) d",
    "a 1 2 c",
    "zoo apple",
    "big cat",
    "A kayak here.",
    "Kayak.",
    "a rose",
    "Hello, my friend says hello",
    "hello you hello",
    "Hello you hello.",
    "The river. The boat.",
    "**The** river. The boat!",
    "By the river. On the river!",
    "It runs by the **river**.",
    "Hi there.-It works.",
    "Hi there. - It works.",
    "[The] [river],",
    "[a] b",
    "<<I am>> <<at home>>, now",
    "<<I am at home>>",
    "Copy the river.",
    "Copy the river.\n******\nCopy the river.",
    "the",
    "the r",
    "The ",
    "the river flows by",
    "The river flows by",
    "the river runs by",
    "one two three four",
    "all words differ",
    "the more the merrier.",
    "Wait... the river runs.",
    "Dr. Smith rows the boat.",
    "p.s. the boat",
    "[one] [two]",
    "Section 1\na\nSection 2\nb",
    "",
    "i have a dream.",
    "ZANIMA ME CENA PREMIUM HIŠIC, BLIZU MORJA",
    "Der Fluss fließt langsam am Boot vorbei, ganz leise.",
    "river boat boat",
]


@pytest.mark.usefixtures("absl")
def test_every_disagreement_with_the_reference_of_if_rlvr_is_explained(monkeypatch, capsys):
    import nltk

    root = folder("IF_RLVR_FOLDER")
    for name, path in (("open_instruct", root), ("open_instruct.IFEvalG", root / "IFEvalG")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    # Its data for telling sentences apart ship with no package; a text as one line is cut into the same words.
    monkeypatch.setattr(nltk, "word_tokenize", lambda text: nltk.tokenize.NLTKWordTokenizer().tokenize(text))
    registry = importlib.import_module("open_instruct.IFEvalG.instructions_registry")
    without = {"length_constraints:number_sentences"}
    names = sorted(set(registry.INSTRUCTION_DICT) - without)
    assert set(IFTRAIN) <= set(names)
    found, compared = {}, 0
    for name in names:
        for arguments, text in itertools.product(ARGUMENTS.get(name, [{}]), TEXTS):
            random.seed(0)
            checker = registry.INSTRUCTION_DICT[name](name)
            checker.build_description(**json.loads(json.dumps(arguments)))
            try:
                reference = bool(text.strip()) and bool(checker.check_following(text))
            except (IndexError, TypeError):  # it has none
                reference = None
            compared += 1
            if follows(text, Constraint(name, arguments), "strict") != reference:
                found[json.dumps([name, arguments, text])] = reference
    rows = [json.loads(line) for line in EXPLAINED.read_text(encoding="utf-8").splitlines()]
    explained = {json.dumps([row["name"], row["arguments"], row["text"]]): row["reference"] for row in rows}
    with capsys.disabled():
        print(f"\nreference of IF-RLVR: {compared - len(found)} of {compared} verdicts agree; {len(found)} differ")
    if target := os.environ.get("IF_RLVR_FOUND"):
        Path(target).write_text(json.dumps(found))
    assert found == explained
    assert all(row["why"] for row in rows)
