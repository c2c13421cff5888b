"""The nano twin of AceReason: SFT, math RL at three lengths, code RL in two stages, math RL again."""

import pytest

from tests.e2e.cascade_process import completed, events
from tests.support.paired_scores import above, lines_of, not_below, scores_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]

STAGES = ("sft", "math_rl_8k", "math_rl_16k", "math_rl_24k", "code_rl_24k", "code_rl_32k", "math_rl_32k")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_stages_come_to_their_ends_and_do_what_the_recipe_says(tmp_path, seed):
    run = completed(tmp_path, "ace", ["cascade=nano_acereason", f"seed={seed}"], 1100)
    assert [record["outcome"] for record in events(run, "decided")] == ["promote"] * len(STAGES)
    for domain in ("math", "code"):
        sft = scores_of(run, "sft", domain)
        assert above(sft, scores_of(run, "start", domain))
        assert not_below(scores_of(run, STAGES[-1], domain), sft, 0.05), domain
    # Truncated responses aren't trained in the first two stages; longer ones are cut off less.
    truncated = {stage: sum(line["truncation_rate"] for line in lines_of(run, stage)) for stage in STAGES[1:4]}
    assert truncated["math_rl_8k"] > truncated["math_rl_24k"]
    # The second code stage samples 16 times, and hotter, from its third step on.
    lines = lines_of(run, "code_rl_32k")
    assert [(line["num_generations"], line["temperature"]) for line in lines] == [(8, 0.6)] * 2 + [(16, 1.0)] * 4
    # Its second epoch leaves out about half of what all samples solved.
    first, second = lines[0]["prompt_filter"], lines[-1]["prompt_filter"]
    assert (lines[0]["epoch"], lines[-1]["epoch"], first["prompts"]) == (0, 1, 64)
    assert second["prompts"] == 64 - second["easy"] + second["readmitted"] - second["hard"]
    # The third math stage asks just the prompts that at most 6 of 16 samples solved, at a temperature that is steered.
    asked = lines_of(run, "math_rl_24k")
    assert len({line["temperature"] for line in asked}) > 1
