import pytest

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.errors import ConfigError, RewardError
from nemo_cascade.rewards.form import FormatVerifier, LanguageVerifier, obeys_mode, repeated_share
from nemo_cascade.rewards.formula import reward_formula
from nemo_cascade.rewards.language import foreign_text
from nemo_cascade.rewards.mix import MixVerifier
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.registry import VERIFIERS
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError

TERMS = [{"reward": {"kind": "math"}, "weight": 2.0}, {"reward": {"kind": "repetition"}, "weight": 0.5}]
GATES = [{"reward": {"kind": "format"}, "otherwise": -1.0}, {"reward": {"kind": "language"}, "otherwise": -3.0}]
LOOP = "again and again and " * 40


def test_formula_reads_as_the_composition():
    assert reward_formula({"kind": "math"}) == "math"
    judged = reward_formula({"kind": "swe_repair", "otherwise": "judge", "judge": {"model": "Kimi"}})
    assert judged == "swe_repair(otherwise=judge, judge.model=Kimi)"
    told = reward_formula({"kind": "math", "mixed_language_score": -1.0, "language": "en"})
    assert told == "math(mixed_language_score=-1.0)"
    assert reward_formula({"kind": "mix", "terms": TERMS, "gates": GATES, "clip": [-1, 2.25]}) == (
        "if format >= 1 then if language >= 1 then clip(2 * math + 0.5 * repetition, -1, 2.25) else -3 else -1"
    )


def test_terms_are_weighted_gated_and_clipped():
    def score(text, clip=(-1, 9)):
        return MixVerifier(TERMS, GATES, clip).verify({"answer": "4"}, Response(text))

    assert score(r"<think>a</think>\boxed{4}") == 2.5
    assert score(rf"<think>{LOOP}</think>\boxed{{4}}") == 2.0
    assert score(r"<think>a</think>\boxed{5}") == 0.5
    assert score(r"<think>a</think>\boxed{4}", (-1, 2.25)) == 2.25
    assert score(r"\boxed{4}") == -1.0
    assert score(r"<think>так</think>\boxed{4}") == -3.0


def test_a_part_that_can_not_judge_makes_the_whole_an_error():
    with pytest.raises(VerifierError, match="record"):
        MixVerifier(TERMS).verify({}, Response(r"<think>a</think>\boxed{5}"))
    # unless a gate in front of it has decided already
    assert MixVerifier(TERMS, GATES).verify({}, Response(r"\boxed{5}")) == -1.0


def test_all_faults_of_a_composition_are_listed():
    with pytest.raises(ConfigError) as caught:
        MixVerifier([{"reward": {"kind": "maths"}}, {"weight": 1.0}], [{"reward": {"kind": "mix"}}], [2, 1])
    assert len(caught.value.violations) == 4
    with pytest.raises(ConfigError, match="no terms"):
        MixVerifier([])


def test_pool_refuses_a_bad_composition_and_tests_the_parts_of_a_good_one():
    bad_part = {**VERIFIERS, "repetition": "probe_verifiers:WrongGolden"}
    with VerifierPool(RewardConfig(workers=1), bad_part) as pool:
        with pytest.raises(RewardError, match="maths"):
            pool.submit(0, "mix", {}, Response(""), {"terms": [{"reward": {"kind": "maths"}}]})
        with pytest.raises(RewardError, match=r"2 of 3 golden cases fail(.|\n)*repetition: 'first'"):
            pool.self_test(["mix"], {"terms": [{"reward": {"kind": "repetition"}}]})


def test_pool_refuses_a_verifier_whose_own_limits_exceed_its_deadline():
    with VerifierPool(RewardConfig()) as pool, pytest.raises(RewardError, match=r"reward\.deadlines\.mix"):
        pool.submit(0, "mix", {}, Response(""), {"terms": [{"reward": {"kind": "code"}}]})


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("naïve Ångström α≤β ½ → ℝ 𝑥² ﬁ 😀 …", "en", None),
        ("it is 四", "en", "四"),
        ("it is 四", "zh", None),
        ("ответ", "en", "ответ"),
        ("ответ", "ru", None),
        ("это 四", "ru", "四"),
        ("こんにちは", "ja", None),
        ("नमस्ते", "en", "नमस्ते"),
        ("ℵ₀ is a cardinal", "en", None),
        ("ａｂｃ", "en", None),
    ],
)
def test_foreign_script_is_found_and_mathematics_is_not(text, language, found):
    assert foreign_text(text, language) == found


def test_text_quoted_from_the_prompt_is_not_foreign():
    row = {"messages": [{"role": "user", "content": "Translate 你好"}]}
    assert LanguageVerifier().verify(row, Response("你好 means hello")) == 1.0
    assert LanguageVerifier().verify(row, Response("再见 means bye")) == 0.0
    assert LanguageVerifier(part="answer").verify({}, Response("<think>再见</think>bye")) == 1.0


def test_format_follows_the_mode():
    assert FormatVerifier("no_think").verify({}, Response("hello")) == 1.0
    assert FormatVerifier("no_think").verify({}, Response("<think></think>hello")) == 0.0
    assert FormatVerifier("row").verify({"mode": "no_think"}, Response("hello")) == 1.0
    assert FormatVerifier("row").verify({"mode": "think"}, Response("hello")) == 0.0


@pytest.mark.parametrize(
    ("text", "modes"),
    [
        ("<think>\na\n</think>\nb", {"think"}),
        ("a\n</think>\nb", {"think"}),
        ("b", {"no_think"}),
        ("<think></think>b", set()),  # neither thinks nor leaves it
        ("<think>\na cut off thought is neither a thought nor an answ", set()),
        ("an answer that is cut off is still one in its mo", {"no_think"}),
        ("<think>a</think>b<think>c</think>d", set()),
        ("<think>a</think>", set()),
        ("", set()),
    ],
)
def test_a_response_obeys_at_most_the_mode_whose_form_it_has(text, modes):
    assert {mode for mode in ("think", "no_think") if obeys_mode(text, mode)} == modes


def test_repeated_share_counts_sequences_that_occurred_before():
    assert repeated_share("a b c d", 2) == 0.0
    assert repeated_share("a b a b a b", 2) == pytest.approx(3 / 5)
    assert repeated_share("a", 2) == 0.0
