"""From verdicts to rewards: what a stage does to a batch's scores before they become advantages.

Shapes: P prompts, G rollouts per prompt. Only valid entries are read; the others are 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.config.stages.rollout_rules import ShapingConfig
from nemo_cascade.rewards.form import prompt_text
from nemo_cascade.rewards.language import foreign_text, written_in
from nemo_cascade.rewards.shaping import (
    Float64,
    bounded_scores,
    combined_instruction_rewards,
    punish_code_switch,
)
from nemo_cascade.types import Prompt

Bool = NDArray[np.bool_]


def shape_rewards(
    scores: Float64,
    valid: Bool,
    failed: Bool,
    switched: Bool,
    preferences: Float64 | None,
    shaping: ShapingConfig,
) -> Float64:
    """Return the rewards [P, G].

    In this order: 0 for what `failed`, the combined reward of a group (arXiv 2512.13607, section 4.4.2), the
    code-switch rule over the whole batch, the bound of a group (sections 4.3 and 6). A truncated response thus is
    bounded like the wrong answer that overlong=zero takes it for; 0 behind the bound would be the group's mean.

    Args:
        scores: [P, G], the verifier's.
        failed: [P, G], truncated under overlong=zero.
        valid: [P, G], judged; by the reward model too, if it has a say.
        switched: [P, G], holds text of a foreign script.
        preferences: [P, G], the reward model's scores, if it has a say.
        shaping: what to do.
    """
    rewards: Float64 = np.where(valid & ~failed, scores, 0.0)
    if preferences is not None:
        for row, model, mask in zip(rewards, preferences, valid, strict=True):
            if mask.any():
                row[mask] = combined_instruction_rewards(row[mask] >= 1.0, model[mask])
    if shaping.code_switch_margin is not None and valid.any():
        rewards[valid] = punish_code_switch(rewards[valid], switched[valid], shaping.code_switch_margin)
    if shaping.bounded:
        for row, mask in zip(rewards, valid, strict=True):
            if mask.any():
                row[mask] = bounded_scores(row[mask])
    return rewards


def code_switches(prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], language: str) -> Bool:
    """Tell which responses [P, G] to prompts in the language hold text of a foreign script (section 4.3).

    A prompt that isn't in it may be answered in its own: the rule isn't for it. What a prompt quotes may be quoted.
    """
    quoted = [prompt_text(prompt.record) for prompt in prompts]
    return np.array(
        [
            [ruled and foreign_text(t, language, quoted=q) is not None for t in row]
            for q, row, ruled in zip(quoted, texts, (written_in(q, language) for q in quoted), strict=True)
        ]
    )
