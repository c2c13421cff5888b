"""The golden cases that every shipped verifier carries, through the real pool and sandbox."""

from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.registry import VERIFIER_NAMES, VERIFIERS, verifier_class

MIX = {
    "terms": [{"reward": {"kind": "math"}}, {"reward": {"kind": "repetition"}, "weight": 0.1}],
    "gates": [{"reward": {"kind": "format"}}],
}


def test_every_shipped_verifier_passes_its_golden_cases():
    with VerifierPool(RewardConfig(workers=2)) as pool:
        pool.self_test([name for name in VERIFIER_NAMES if name not in ("mix", "rubric")])
        pool.self_test(["rubric"], {"judge": {"url": "http://127.0.0.1:9/v1", "model": "none"}})
        pool.self_test(["mix"], MIX)


def test_every_verifier_has_golden_cases_of_both_kinds():
    for name, path in VERIFIERS.items():
        golden = verifier_class(path).golden
        # One is made of others, whose cases are run in its place; of the other a judge gives all but two verdicts.
        if name not in ("mix", "rubric"):
            assert len({case.score for case in golden if case.error is None}) >= 2, name
