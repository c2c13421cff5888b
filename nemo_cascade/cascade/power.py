"""What a plan's gates could find, before anything is measured: suites that are too small for their promises.

Assumed of every suite is a spread of its prompts' solve rates as of Beta(1/2, 1/2), from never to always with few in
between, as models have it: a variance of span^2 / 8 of one sample at one prompt. The two models of a comparison draw
their samples by themselves. Once scores are there, every row of a gate says the same of the variance that it met.
"""

from collections.abc import Iterator

from nemo_cascade.cascade.levels import gate_level, stage_gate
from nemo_cascade.config.gate import GateConfig
from nemo_cascade.config.schema import RunConfig, SuiteConfig
from nemo_cascade.config.verifiers.kinds import PREFERENCE
from nemo_cascade.evaluation.paired import detectable_change

_VARIANCE = 1 / 8  # of one sample at one prompt, in units of span^2
_BEYOND_TOLERANCE = 0.13


def unacceptable_fall(gate: GateConfig) -> float:
    """Return the fall that a gate must find, a share of `score_span`."""
    return gate.tolerance + _BEYOND_TOLERANCE if gate.unacceptable_fall is None else gate.unacceptable_fall


def expected_detectable(suite: SuiteConfig, level: float, tolerance: float) -> float:
    """Return the smallest fall, as a share of `score_span`, that a gate is expected to find (probability 90 %).

    Args:
        suite: prompts and samples.
        level: of the test.
        tolerance: the fall that is allowed, a share of `score_span`.
    """
    samples = suite.scores_per_prompt
    return detectable_change(2 * _VARIANCE / samples, suite.num_prompts, samples, level, tolerance)


def held_domains(config: RunConfig, stage: str) -> list[str]:
    """Return the domains with a suite that a stage of the policy promises to hold."""
    rules = config.stages[stage]
    if not rules.moves_policy:
        return []
    promise = rules.promise
    return [d for d in config.evaluation.suites if d not in promise.improve and {d, "*"} & set(promise.hold)]


def too_small(config: RunConfig) -> Iterator[str]:
    """Yield a line for each suite that is too small to find a fall that the recipe calls unacceptable.

    A suite that a reward model judges is passed over: its scores have no scale.
    """
    worst: dict[str, tuple[float, float, str, float]] = {}
    for stage in config.stages:
        gate, held = stage_gate(config, stage), held_domains(config, stage)
        if gate.on_regression == "promote":
            continue
        for domain in held:
            suite, level = config.evaluation.suites[domain], gate_level(config, stage) / len(held)
            found = expected_detectable(suite, level, gate.tolerance)
            excess = found - unacceptable_fall(gate)
            if suite.reward.kind != PREFERENCE and excess > max(0.0, worst[domain][0] if domain in worst else 0.0):
                worst[domain] = (excess, found, stage, level)
    for domain, (_, found, stage, level) in worst.items():
        suite, gate = config.evaluation.suites[domain], stage_gate(config, stage)
        fall = unacceptable_fall(gate)
        yield (
            f"evaluation.suites.{domain}: {suite.num_prompts} prompts x {suite.scores_per_prompt} find a fall of "
            f"{found:.2g} with a probability of 90 % (gate after {stage}, level {level:.1g}), not one of "
            f"{fall:g} (gate.unacceptable_fall); mend: num_prompts="
            f"{_enough_prompts(suite, level, gate.tolerance, fall)}, or more samples_per_prompt"
        )


def _enough_prompts(suite: SuiteConfig, level: float, tolerance: float, fall: float) -> int:
    """Return the prompts, in tens, with which a suite is large enough."""
    samples, prompts = suite.scores_per_prompt, suite.num_prompts
    while detectable_change(2 * _VARIANCE / samples, prompts, samples, level, tolerance) > fall:
        prompts += max(10, prompts // 50)
    return -(-prompts // 10) * 10
