"""The nano twin of Nemotron 3 Nano: SFT, RL in six environments at once, a judge's training, RLHF, and RL again."""

import re

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from nemo_cascade.cascade.ledger import read_ledger
from tests.e2e.cascade_process import completed
from tests.support.paired_scores import above, lines_of, not_below, scores_of

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(2000)]

ENVIRONMENTS = ("math", "instruction", "code", "choice", "structured", "tools")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_six_environments_at_once_and_short_thoughts_that_cost_no_quality(tmp_path, seed):
    run = completed(tmp_path, "nano_nemotron_3", ["cascade=nano_nemotron_3", f"seed={seed}"], 1900)
    told = {
        domain: [float(scores_of(run, stage, domain).mean()) for stage in ("sft", "rlvr", "rlhf", "rlvr_2")]
        for domain in (*ENVIRONMENTS, "chat")
    }

    lifted = [domain for domain in ENVIRONMENTS if above(scores_of(run, "rlvr", domain), scores_of(run, "sft", domain))]
    assert len(lifted) >= 5, told
    kept = [d for d in ENVIRONMENTS if above(scores_of(run, "rlvr_2", d), scores_of(run, "sft", d))]
    assert len(kept) >= 5, told
    lines = lines_of(run, "rlvr")
    for line in lines:
        assert set(line["groups_by_domain"]) == set(ENVIRONMENTS)
        assert set(line["groups_by_domain"].values()) == {4}
        assert line["verdict_errors"] == 0
        assert line["turns_mean"] > 1

    # The judge learned to judge beside the line: RLHF goes on from RLVR.
    assert above(scores_of(run, "genrm", "judge"), scores_of(run, "sft", "judge"))
    parents = {r.stage: r.details["parent"] for r in read_ledger(run / "ledger.jsonl") if r.event == "stage_started"}
    assert (parents["genrm"], parents["rlhf"]) == ("sft", "rlvr")

    lengths = np.array([line["response_length_mean"] for line in lines_of(run, "rlhf")])
    third = len(lengths) // 3
    assert mannwhitneyu(lengths[-third:], lengths[:third], alternative="less").pvalue < 0.05, lengths
    assert lengths[-third:].mean() < 0.8 * lengths[:third].mean(), lengths
    assert not_below(scores_of(run, "rlhf", "chat"), scores_of(run, "rlvr", "chat"), 0.0), told

    curriculum = [line["stream_by_task"]["math"]["curriculum"] for line in lines]
    targets, drawn = ([step[f"{rate}_pass_rate"] for step in curriculum] for rate in ("target", "drawn"))
    assert targets == sorted(targets, reverse=True)
    assert mannwhitneyu(drawn[-7:], drawn[:7], alternative="less").pvalue < 0.01, drawn
    page = re.sub(r"\s+", " ", (run / "report.html").read_text())
    assert "Pass rates of the curriculum" in page
