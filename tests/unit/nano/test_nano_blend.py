"""What the nano twin of Nemotron 3 Nano learns from, is rewarded for and is measured on."""

import json
import re
from random import Random

import pytest

from nemo_cascade.config.stages.tasks import ComparisonPromptConfig
from nemo_cascade.data.chat.encode import encode_conversation, load_tokenizer
from nemo_cascade.data.prompts.comparison_rows import ComparisonPrompts
from nemo_cascade.nano.blend.choice import choice_prompt, choice_sample, draw_choice
from nemo_cascade.nano.blend.judge import asked_comparison, comparison_sample, draw_comparison, ranking_of
from nemo_cascade.nano.blend.rows import prepare_nano_blend
from nemo_cascade.nano.blend.structured import draw_form, structured_prompt, structured_sample
from nemo_cascade.nano.preference import draw_topic
from nemo_cascade.rewards.genrm import GenRMTrainingVerifier
from nemo_cascade.rewards.multiple_choice import MultipleChoiceVerifier
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.structured_output.verifier import StructuredOutputVerifier

TASKS = ("math", "instruction", "code", "choice", "structured", "tools", "chat", "judge")


@pytest.fixture(scope="module")
def blend(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "nano_blend"
    prepare_nano_blend(folder, seed=0)
    return folder


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def asked(row):
    """A task apart from the order of what it lists."""
    return tuple(sorted(re.split(r"[.,\n] ?|^Give JSON: |^Write f of x: ", row["messages"][0]["content"])))


def said(row):
    return Response(row["messages"][-1]["content"])


def test_no_task_is_learned_from_and_rewarded_or_measured_on(blend):
    for task in TASKS[:-1]:
        learned, train, test = (
            {asked(row) for row in rows(blend, f"{task}_{kind}")} for kind in ("sft", "train", "test")
        )
        assert (len(rows(blend, f"{task}_train")), len(rows(blend, f"{task}_test"))) == (120, 240)
        assert not learned & train | learned & test | train & test, task


def test_who_says_the_word_names_its_letter_and_who_guesses_is_right_by_chance():
    rng, verifier = Random(0), MultipleChoiceVerifier()
    choices = [draw_choice(rng, "sft") for _ in range(800)]
    told, guessed = (
        [verifier.verify(choice_prompt(choice), said(choice_sample(choice, rng, share))) for choice in choices]
        for share in (0.0, 1.0)
    )
    assert set(told) == {1.0}
    assert 0.2 < sum(guessed) / len(guessed) < 0.3


def test_a_careful_object_fits_its_schema_and_a_careless_one_never_does():
    rng, verifier = Random(0), StructuredOutputVerifier()
    for _ in range(300):
        form = draw_form(rng, "sft")
        row = structured_prompt(form)
        assert verifier.verify(row, said(structured_sample(form, rng, 0.0))) == 1.0
        assert verifier.verify(row, said(structured_sample(form, rng, 1.0))) == 0.0


def test_a_right_verdict_costs_nothing_and_a_guessed_one_does_and_positions_dont_matter():
    rng, verifier = Random(0), GenRMTrainingVerifier()
    guessed = []
    for _ in range(300):
        row = draw_comparison(draw_topic(rng, "sft"), rng)
        assert verifier.verify(row, said(comparison_sample(row, rng, 0.0))) == 0.0
        guessed.append(verifier.verify(row, said(comparison_sample(row, rng, 1.0))))
        assert ranking_of(row["score_2"], row["score_1"]) == 7 - row["ranking"]
        given, _ = ComparisonPrompts(ComparisonPromptConfig(enabled=True)).build(row)
        assert given.row["messages"] == asked_comparison(row)["messages"]
    assert min(guessed) >= -13  # four and four off, and five in the ranking
    assert -6 < sum(guessed) / len(guessed) < -3


def test_conversations_are_few_tokens_of_a_vocabulary_that_the_nano_models_have(blend):
    tokenizer = load_tokenizer(blend / "tokenizer")
    assert tokenizer.vocab_size <= 384
    for task in TASKS:
        for row in rows(blend, f"{task}_sft")[:300]:
            ids, trained = encode_conversation(tokenizer, row["messages"], None, row.get("tools"))
            assert len(ids) <= 48
            assert 0 < trained.sum() <= 32
    for word in (" wolf", " fork", ' "price":', " yes/no", "Which is a place?", '{"score_1": '):
        assert len(tokenizer.encode(word)) == 1


def test_what_is_thought_of_a_question_is_one_note_up_to_four_times(blend):
    notes = [row["messages"][1]["reasoning_content"].split("\n") for row in rows(blend, "chat_sft")]
    assert {len(thought) for thought in notes} == {1, 2, 3, 4}
    assert all(len(set(thought)) == 1 for thought in notes)
