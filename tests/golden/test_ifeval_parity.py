"""Our IFEval checks against the reference implementation in the package if-verifiable, on texts made to disagree."""

import itertools
import json

import pytest
from if_verifiable.ifeval import instructions_registry as registry

from nemo_cascade.rewards.constraints.following import Constraint, follows

# The reference's counts of sentences and capital words need data files of nltk that no package ships.
WITHOUT_REFERENCE = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}

RELATIONS = ("at least", "less than")
ARGUMENTS = {
    "keywords:existence": [{"keywords": ["river", "boat"]}, {"keywords": ["the"]}],
    "keywords:frequency": [{"keyword": "the", "frequency": n, "relation": r} for n in (1, 3) for r in RELATIONS],
    "keywords:forbidden_words": [{"forbidden_words": ["boat", "no"]}],
    "keywords:letter_frequency": [{"letter": "T", "let_frequency": 4, "let_relation": r} for r in RELATIONS],
    "language:response_language": [{"language": "en"}, {"language": "de"}],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:number_words": [{"num_words": n, "relation": r} for n in (2, 14) for r in RELATIONS],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 2, "nth_paragraph": n, "first_word": w} for n in (1, 2) for w in ("the", "my")
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2)],
    "detectable_content:postscript": [{"postscript_marker": m} for m in ("P.S.", "P.P.S", "Note:")],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3)],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 2, 3)],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": n} for n in (1, 2)],
    "combination:repeat_prompt": [{"prompt_to_repeat": "The River"}],
    "startend:end_checker": [{"end_phrase": "the end."}],
}
TEXTS = [
    "",
    "The river runs by the boat, and the boat runs by the river.",
    "THE RIVER RUNS BY THE BOAT AND NOTHING ELSE MATTERS TO ANYONE HERE.",
    "the river runs by the boat and nothing else matters to anyone here.",
    "Der Fluss fließt langsam am Boot vorbei, während die Sonne untergeht.",
    "My answer is yes.",
    "I think: My answer is maybe. Right?",
    "First\n***\nSecond",
    "***\nFirst\n***\n***\nSecond",
    "The first paragraph.\n\nMy second, with a boat.",
    '"The" first\n\n\'My second\'',
    "The first.\n\n\n\nMy second.",
    "Dear [name], meet me at [place].\nP.S. Bring [a boat].",
    "nested [a [b] c]\nNote: none",
    "p.p.s. last words",
    "* one\n* two\n- three",
    "** bold start\n*one\n  * two",
    "*one* **two words** *** three",
    "a * b * c",
    "Section 1\nhello\nSection 2\nworld",
    "Section1 and Section 22",
    '{"a": [1, 2]}',
    '```json\n{"a": 1}\n```',
    "```\n[1]\n```",
    "<<A title>>\nbody",
    "<< >> and <<<x>>>",
    "one ****** two",
    "one ****** one",
    "******one******two******",
    "one******   ******two",
    '"Quoted from start to end."',
    '"',
    "It is over, this is the end.",
    '"This is THE END."',
    "The river and more",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(registry.INSTRUCTION_DICT) - WITHOUT_REFERENCE))
def test_check_agrees_with_the_reference(name):
    disagreements, seen = [], set()
    for arguments, text in itertools.product(ARGUMENTS.get(name, [{}]), TEXTS):
        reference = registry.INSTRUCTION_DICT[name](name)
        reference.build_description(**json.loads(json.dumps(arguments)))
        due = bool(text.strip()) and bool(reference.check_following(text))
        seen.add(due)
        if follows(text, Constraint(name, arguments), "strict", "reference") != due:
            disagreements.append((arguments, text, due))
    assert disagreements == []
    assert seen == {True, False}, "the texts don't try both outcomes"
