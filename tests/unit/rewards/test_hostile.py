"""Responses written to break a verifier: each gets its verdict in time, and the pool judges on as before."""

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.response import Response

NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
TITLE = {"instruction_id_list": ["detectable_format:title"], "kwargs": [{}]}
PLACES = {"instruction_id_list": ["detectable_content:number_placeholders"], "kwargs": [{"num_placeholders": 3}]}
SENTENCES = {
    "instruction_id_list": ["length_constraints:number_sentences"],
    "kwargs": [{"relation": "at least", "num_sentences": 9}],
}
EDIT = {"files": {"a.py": "x = 1\n"}, "fixed_files": {"a.py": "x = 2\n"}}
GOLD = ("7", "x=5", r"\sqrt{2}+1", "x^2+1", r"\{1,2\}", "(1,2)")
BOMBS = (
    "9**9**9",
    "9^{9^{9^9}}",
    "(10^{9})!",
    r"\left((x+1)^{99}\right)^{99}",
    "(a+b+c+d+e+f)^{100}",
    "(((((x+1)^{9}+1)^{9}+1)^{9}+1)^{9}+1)^{9}",
    "e^{e^{e^{e^{e^{e^{5}}}}}}",
    r"\sum_{k=1}^{10^{9}} k^{k}",
    r"\binom{999999999}{499999999}",
    r"\frac{1}{" * 500 + "x" + "}" * 500,
    "9" * 100_000,
    "(" * 50_000,
    "x^{99}+" * 140 + "1",
    "‮7",
    "７",
    "7​",
    "7\0",
    "\ud800",
)
LONG = 10 << 20


def hostile_cases():
    """(verifier, record, text, score due)"""
    for bomb in BOMBS:
        for gold in GOLD:
            yield "math", {"answer": gold}, f"\\boxed{{{bomb}}}", 0.0
    yield "math", {"answer": "7"}, "\\boxed{" * 100_000, 0.0
    yield "math", {"answer": "7"}, "x" * LONG + r"\boxed{7}", 1.0
    yield "math", {"answer": "7"}, "<think>" * 200_000 + r"</think>\boxed{7}", 1.0
    yield "math", {"answer": "7"}, "\0" * 1000 + r"\boxed{7}", 1.0
    yield "instruction", NO_COMMA, "," * LONG, 0.0
    yield "instruction", TITLE, "<<" * 400_000, 0.0
    yield "instruction", PLACES, "[" * 900_000, 0.0
    yield "instruction", SENTENCES, "." * 900_000, 0.0
    yield "instruction", SENTENCES, "a.b" * 300_000, 0.0
    yield "swe_repair", EDIT, "<<<<<<< SEARCH\n" * 50_000, -1.0
    yield "swe_repair", EDIT, "<solution>" * 80_000, -1.0
    yield "swe_repair", EDIT, "a/" * 400_000 + "\n", -1.0
    yield "swe_localize", {"gold_files": ["a.py"]}, "a/" * 400_000, 0.0
    yield "format", {}, "<think>" + "</think>" * 100_000, 0.0
    yield "language", {}, "é" * 200_000 + "и", 0.0
    yield "repetition", {}, "a " * (1 << 20), 0.0
    yield "genrm_training", {"score_1": 1, "score_2": 1, "ranking": 1}, "{" * 1_000_000, -10.0


def test_hostile_responses_get_their_verdicts_in_time_and_leave_the_pool_sound():
    with VerifierPool(RewardConfig(workers=2, deadline_s=10.0, memory_mib=2048)) as pool:
        cases = list(hostile_cases())
        for index, (verifier, record, text, _) in enumerate(cases):
            pool.submit(index, verifier, record, Response(text))
        verdicts = dict(pool.drain())
        wrong = [
            (cases[i][0], cases[i][1], cases[i][2][:50], cases[i][3], verdicts[i])
            for i in range(len(cases))
            if verdicts[i].score != cases[i][3]
        ]
        assert wrong == []
        for index in range(1000):
            pool.submit(index, "math", {"answer": str(index % 7)}, Response(f"\\boxed{{{index % 5}}}"))
        for index, verdict in pool.drain():
            assert verdict.score == float(index % 7 == index % 5)
