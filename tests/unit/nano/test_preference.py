from random import Random

from nemo_cascade.nano.preference import FLAWS, answer, draw_topic, preference_rows, quality


def question(row):
    return " ".join(sorted(row["messages"][0]["content"].partition(": ")[2].split()))


def test_each_flaw_costs_one_rule_and_together_they_leave_what_is_named():
    rng = Random(0)
    for _ in range(200):
        topic = draw_topic(rng, "sft")
        assert quality(topic.words, answer(topic, (), rng)) == 1.0
        for flaw in FLAWS:
            assert quality(topic.words, answer(topic, (flaw,), rng)) == 0.8
        assert quality(topic.words, answer(topic, FLAWS, rng)) == 0.2


def test_what_is_learned_from_what_is_rewarded_and_what_is_measured_on_are_about_different_things():
    rows = preference_rows(0)
    about = {name: {question(row) for row in rows[f"preference_{name}"]} for name in ("sft", "train", "test")}
    assert about["sft"] | about["train"] | about["test"] > about["train"]
    assert not about["sft"] & about["train"]
    assert not (about["sft"] | about["train"]) & about["test"]
    held, pairs = ({question(row) for row in rows[f"preference_{name}"]} for name in ("holdout", "pairs"))
    assert not held & (pairs | about["train"])
    texts = [row["messages"][0]["content"] for row in rows["preference_test"]]
    assert len(set(texts)) == len(texts) == 300
    assert rows == preference_rows(0)


def test_the_better_answer_is_preferred_but_for_a_rare_slip():
    rows = preference_rows(0)["preference_pairs"]
    margins = [
        quality(question(row).split(), row["chosen"]) - quality(question(row).split(), row["rejected"]) for row in rows
    ]
    assert 0 not in margins
    assert 0.97 < sum(margin > 0 for margin in margins) / len(margins) < 1


def test_what_the_policy_learns_from_is_of_middling_quality():
    rows = preference_rows(0)["preference_sft"]
    kept = [quality(question(row).split(), row["messages"][1]["content"]) for row in rows]
    assert 0.55 < sum(kept) / len(kept) < 0.65
    assert {0.2, 0.4, 0.6, 0.8, 1.0} == set(kept)
