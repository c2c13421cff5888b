import json

import pytest

from nemo_cascade.rewards.constraints.following import CHECKS, Constraint, follows, parse_constraints
from nemo_cascade.rewards.constraints.ifeval import IFEVAL
from nemo_cascade.rewards.constraints.iftrain import IFTRAIN
from nemo_cascade.rewards.constraints.text import sentences
from nemo_cascade.rewards.instruction import InstructionVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError

FRENCH = "Le petit chat dort tranquillement sur le canapé pendant que la pluie tombe dehors."
ENGLISH = "The little cat sleeps quietly on the sofa while the rain is falling outside."
AT_LEAST_2, LESS_2 = {"relation": "at least"}, {"relation": "less than"}

# constraint, arguments, texts that follow, texts that don't
CASES = [
    ("keywords:existence", {"keywords": ["river", "boat"]}, ["A Boat on the RIVER"], ["A boat", ""]),
    ("keywords:existence", {"keywords": ["C++", "a.b"]}, ["c++ and a.b"], ["c++ and axb", "C and a.b"]),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, **AT_LEAST_2}, ["go, Go"], ["go"]),
    ("keywords:frequency", {"keyword": "go", "frequency": 2.0, **LESS_2}, ["go"], ["go go"]),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, ["a badge"], ["not Bad."]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, ["Qq"], ["q"]),
    ("language:response_language", {"language": "fr"}, [FRENCH], [ENGLISH]),
    ("length_constraints:number_sentences", {"num_sentences": 2, **AT_LEAST_2}, ["One. Two!"], ["Dr. Who."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na\n***\nb"], ["a\n\nb", "a"]),
    ("length_constraints:number_words", {"num_words": 3, **LESS_2}, ["one two"], ["one two three"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"},
        ["a b\n\nWell, c", 'a\n\n"Well" d'],
        ["well a\n\nb", "a\n\nwell b\n\nc", "Well"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b]"], ["[a]", "[a\nb] [c"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x\nP.S. y", "p. s. y"], ["PS y"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. y"], ["P.S. y"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n  * b"], ["* a", "* a\n* b\n- c"]),
    ("detectable_format:constrained_response", {}, ["My answer is no."], ["no", "My answer is perhaps."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b c**"], ["*a*", "* *"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1\na", "SECTION 1 SECTION 2"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n{"a": [1]}\n```'], ["a: 1", '{"a": 1} done']),
    ("detectable_format:title", {}, ["<<Joy>>\ntext"], ["<Joy>", "<<>>", "<<Joy\n>>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a ****** a", "a", "a******b******c", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["Say hi.\nHi"], ["Hi. Say hi."]),
    ("startend:end_checker", {"end_phrase": "Bye now."}, ["a. bye now.", '"a. Bye now."'], ["Bye now. a"]),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["NASA and ESA"],
        ["NASA and Esa"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, FRENCH.upper()]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, FRENCH.lower()]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
    ("startend:quotation", {}, ['"a b"'], ['a "b"', '"']),
    ("keywords:word_once", {"keyword": "sea"}, ["the Sea"], ["sea sea", "lake"]),
    ("keywords:word_count_different_numbers", {"keyword": "a", "frequency": 2, **AT_LEAST_2}, ["a a"], ["a"]),
    ("keywords:exclude_word_harder", {"keyword": "is"}, ["this was"], ["it is so"]),
    ("keywords:no_adjacent_consecutive", {}, ["a cat eats"], ["a big cat"]),
    ("keywords:palindrome", {}, ["A kayak!"], ["a boat"]),
    ("keywords:keyword_specific_position", {"keyword": "red", "n": 2, "m": 3}, ["Hi. It is red."], ["It is red. Hi."]),
    ("keywords:start_end", {}, ["Time is time"], ["Time is time.", "Time"]),
    ("letters:letter_counting", {"N": 3, **AT_LEAST_2}, ["a1b2c"], ["a1b2"]),
    ("letters:letter_counting2", {"letter": "z", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["Z"]),
    ("paragraphs:paragraphs", {}, ["a *** b"], ["a", "a***b***c"]),
    ("paragraphs:paragraphs2", {}, ["a\n\nb"], ["a\nb", "a\n\nb\n\nc"]),
    ("first_word:first_word_sent", {"first_word": "so"}, ["So it is. So be it."], ["So it is. Be it."]),
    ("first_word:first_word_answer", {"first_word": ["yes"]}, ["Yes, it is"], ["Oh yes"]),
    ("last_word:last_word_sent", {"last_word": "end"}, ["The end. An END!"], ["The end. Not."]),
    ("last_word:last_word_answer", {"last_word": "end"}, ["The end."], ["end of it"]),
    ("detectable_format:sentence_hyphens", {}, ["Hi there.-It works."], ["Hi there. - It works.", "Hi. It works."]),
    ("detectable_format:square_brackets", {}, ["[a] [b]"], ["[a] b", "[a b]"]),
    ("detectable_format:bigram_wrapping", {}, ["<<I am>> <<at home>>"], ["<<I am>> at home", "<<I>> <<am>>"]),
    ("copy:copy", {"prompt_to_repeat": "Do it."}, ["do it."], ["Do it. Done"]),
    ("copy:copying_simple", {"prompt_to_repeat": "Do it."}, [" Do it.\n"], ["Do"]),
    ("copy:copying_multiple", {"prompt_to_repeat": "Do it.", "N": 2}, ["Do it.\n******\nDo it."], ["Do it."]),
    ("new:copy_span_idx", {"prompt_to_repeat": "abcdef", "n_start": 1, "n_end": 4}, ["bcde"], ["bcd"]),
    ("copy:repeat_phrase", {"phrase": "time flies when fun", "small_n": 2},
     ["time walks when fun, time flies if fun"], ["time flies when fun", "time walks if fun time flies if fun"]),
    ("punctuation:punctuation_dot", {}, ["a"], ["a."]),
    ("punctuation:punctuation_exclamation", {}, ["a."], ["a!"]),
    ("count:lowercase_counting", {"N": 2}, ["NO more THAN this"], ["one two three"]),
    (
        "count:counting_composition",
        {"n_sent": 2, "n_words": 2},
        ["It is. We are.\n***\nHe was. I am.\n***\nYou go. She ran."],
        ["It is.\n***\nHe was.\n***\nYou go.", "It is. We are."],
    ),
    ("count:count_unique", {}, ["all words differ"], ["the more The merrier"]),
    ("count:count_increment_word", {"keyword1": "one", "keyword2": "two"}, ["one two two"], ["one two", "one one two"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_constraint_tells_followed_from_broken(name, arguments, good, bad):
    constraint = Constraint(name, arguments)
    assert [text for text in good if not follows(text, constraint, "strict")] == []
    assert [text for text in bad if follows(text, constraint, "strict")] == []


def test_both_taxonomies_are_complete_and_every_type_is_tested():
    assert (len(IFEVAL), len(IFTRAIN)) == (25, 29)
    assert {case[0] for case in CASES} == set(CHECKS)


def test_loose_mode_forgives_markdown_and_an_introduction():
    constraint = Constraint("startend:end_checker", {"end_phrase": "The end."})
    for text in ("**Story. The end.**", "Story. The end.\nAnything else?", "Sure:\nStory. *The end.*"):
        assert not follows(text, constraint, "strict", "reference")
        assert follows(text, constraint, "loose", "reference")


def test_rows_of_the_public_sets_are_read_alike():
    names, arguments = ["punctuation:no_comma", "keywords:word_once"], [{}, {"keyword": "sea", "n": None}]
    forms = [
        {"instruction_id_list": names, "kwargs": arguments},
        {"instruction_id_list": names, "kwargs": json.dumps(arguments)},
        {"instruction_id_list": names, "kwargs": [json.dumps(a) for a in arguments]},
        {"ground_truth": json.dumps([{"instruction_id": names, "kwargs": [None, arguments[1]]}])},
        {"ground_truth": str([{"instruction_id": names, "kwargs": [None, arguments[1]]}])},
        {"ground_truth": str([json.dumps({"instruction_id": names, "kwargs": [None, arguments[1]]})])},
    ]
    for form in forms:
        assert parse_constraints(form) == [Constraint(names[0], {}), Constraint(names[1], {"keyword": "sea"})]


def test_malformed_rows_are_record_errors_even_where_the_answer_is_bad():
    rows = [
        {},
        {"instruction_id_list": []},
        {"instruction_id_list": ["no:such"], "kwargs": [{}]},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
        {
            "instruction_id_list": ["keywords:frequency"],
            "kwargs": [{"keyword": "a", "frequency": 2, "relation": "over"}],
        },
        {"instruction_id_list": ["keywords:frequency"], "kwargs": [{"keyword": "a", "frequency": -2, **AT_LEAST_2}]},
        {"ground_truth": "no json"},
        {"ground_truth": "[{'instruction_id': open('x')}]"},
    ]
    for row in rows:
        with pytest.raises(VerifierError, match="record"):
            InstructionVerifier().verify(row, Response("b"))


def test_partial_score_is_the_share_of_followed_constraints():
    row = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    assert InstructionVerifier().verify(row, Response("no quotes")) == 0.0
    assert InstructionVerifier(partial=True).verify(row, Response("no quotes")) == 0.5


def test_sentences_end_where_readers_see_them_end():
    text = (
        'Dr. Smith paid 3.50 at example.com, e.g. for tea. "Was it good?" she asked. J. R. R. Tolkien wrote!\n\nTitle'
    )
    assert len(sentences(text)) == 5
    assert sentences("Wait... What?! Yes.") == ("Wait...", "What?!", "Yes.")
