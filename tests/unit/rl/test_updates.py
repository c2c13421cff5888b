"""From judged rollouts to updates, with a scripted policy: what is filtered, what is left out and counted."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
from nemo_cascade.errors import RolloutError
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.policy import policy_loss
from nemo_cascade.losses.units import count_units
from nemo_cascade.rl.batch import RolloutBatch, marked
from nemo_cascade.rl.group import Group
from nemo_cascade.rl.updates import policy_updates, sequence_error
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.telemetry.timers import PhaseTimer
from nemo_cascade.training.setup import StepResult
from nemo_cascade.types import FinishReason, Task, Verdict, first_turn

PROMPT, RESPONSE = 2, 3


class Policy:
    """Scores response token t of rollout s as `engine - gaps[s][t]`; keeps what it is trained on."""

    def __init__(self, gaps):
        self.gaps, self.trained = gaps, []

    def logprobs(self, source, step, which="policy"):
        rows = []
        for members in source.plan[0]:
            packs = [source.documents[i] for i in members]
            values = [d.extras["behaviour_logprobs"].astype(np.float64) for d in packs]
            for row, document in zip(values, packs, strict=True):
                row[PROMPT - 1 : -1] -= self.gaps[int(document.input_ids[0])]
            rows.append(np.concatenate(values).astype(np.float32))
        return [rows]

    def train_step(self, source, step):
        batches = source.micro_batches(step, 0, 1)
        self.trained.append((step, sum(count_units(b) for b in batches)))
        return StepResult(step, 0.5, 1.0, 1e-4, self.trained[-1][1], skipped=False, metrics={"entropy": 1.0})


def batch_of(finished, trained):
    """Return one group; token 0 of each rollout is its number."""
    rollouts = [
        first_turn(
            "p",
            i,
            np.array([i, 9], np.int32),
            np.full(RESPONSE, 7, np.int32),
            np.full(RESPONSE, -1.0, np.float32),
            reason,
            1,
        )
        for i, reason in enumerate(finished)
    ]
    size = len(rollouts)
    group = Group(Task("p", "math", "math", np.array([1], np.int32), {}), rollouts, [Verdict(1.0)] * size)
    marks = marked([group], [], None)
    marks.trained[:] = trained
    return RolloutBatch([group], marks, np.linspace(-1, 1, size)[None], 0, 1)


def update(policy, batch, *overrides):
    overrides = [f"stages.math_rl.{o}" for o in ("sampling.top_k=0", *overrides)]
    config, _ = compose(["cascade=nano", "parallel=single", *overrides])
    return policy_updates(policy, batch, config.stages["math_rl"], config, 5, PhaseTimer())


STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def test_a_response_on_which_trainer_and_engine_disagree_leaves_the_normaliser_but_not_the_baseline():
    gaps = {0: [0.1, 0.1, 0.1], 1: [0.0, 0.0, math.log(5.0)], 2: [-math.log(1.9)] * 3, 3: [math.nan, 0, 0]}
    batch = batch_of([STOP] * 4, [True] * 4)
    errors = [sequence_error(np.array(gaps[i], dtype=np.float64)) for i in (1, 2, 3)]
    assert errors == [pytest.approx(7 / 3), pytest.approx(1.9), math.inf]
    policy = Policy(gaps)
    updates = update(policy, batch, "loss.sequence_error_max=2")
    assert (updates.filtered, updates.empty, policy.trained) == (2, 0, [(5, 2 * RESPONSE)])
    unfiltered = Policy(gaps)
    assert update(unfiltered, batch).filtered == 0
    assert unfiltered.trained == [(5, 4 * RESPONSE)]


def test_an_update_whose_rollouts_are_all_truncated_is_left_out_and_counted(caplog):
    policy = Policy(dict.fromkeys(range(4), 0.0))
    updates = update(policy, batch_of([LENGTH] * 4, [False] * 4), "overlong=mask")
    assert (updates.results, updates.empty, policy.trained) == ([], 1, [])
    assert "100% of the rollouts were truncated" in caplog.text
    assert optimizer_line(updates.results)["loss"] is None


@pytest.mark.parametrize("extra", [[], ["loss.sequence_error_max=2"]])
def test_of_several_updates_only_the_empty_one_is_left_out(extra):
    policy = Policy(dict.fromkeys(range(4), 0.0))
    batch = batch_of([LENGTH, LENGTH, STOP, STOP], [False, False, True, True])
    updates = update(policy, batch, "overlong=mask", "updates_per_batch=2", *extra)
    # The second keeps its own place in the schedule: 5 rollout batches of 2 updates came before, and the empty one.
    assert (updates.empty, policy.trained) == (1, [(11, 2 * RESPONSE)])
    assert optimizer_line(updates.results)["entropy"] == 1.0


def test_a_filter_that_leaves_nothing_is_an_empty_update_too():
    policy = Policy(dict.fromkeys(range(4), 3.0))
    updates = update(policy, batch_of([STOP] * 4, [True] * 4), "loss.sequence_error_max=2")
    assert (updates.filtered, updates.empty, policy.trained) == (4, 1, [])


def test_an_empty_response_weighs_nothing_and_breaks_nothing():
    batch = batch_of([STOP] * 2, [True, False])
    empty = first_turn(
        "p", 1, np.array([1, 9], np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), FinishReason.ABORT, 1
    )
    batch.groups[0].answers[1] = empty
    policy = Policy({0: 0.0, 1: 0.0})
    assert update(policy, batch, "loss.aggregation=sequence").empty == 0
    assert policy.trained == [(5, RESPONSE)]
    assert SimpleNamespace(**optimizer_line([])).tokens == 0


class Trained(Policy):
    """Keeps each document's gradient of the loss in float64, as a trainer would divide it."""

    def train_step(self, source, step):
        batches, gradients, loss = source.micro_batches(step, 0, 1), {}, 0.0
        config = PolicyLossConfig(aggregation="sequence")
        units = sum(count_units(b, "sequence") for b in batches)
        for batch, members in zip(batches, source.plan[0], strict=True):
            lengths = torch.tensor(np.diff(batch.cu_seqlens))
            where = Documents(torch.repeat_interleave(lengths), len(lengths), lambda sums: sums)
            extras = {name: torch.tensor(v, dtype=torch.float64) for name, v in batch.extras.items()}
            logprob = extras["behaviour_logprobs"].clone().requires_grad_()
            output = policy_loss(logprob, None, torch.tensor(batch.loss_mask), where, extras, config)
            (output.loss_sum / units).backward()
            loss += output.loss_sum.item() / units
            gradients |= dict(zip(members, logprob.grad.split(lengths.tolist()), strict=True))
        self.trained.append((loss, [gradients[i].numpy() for i in sorted(gradients)]))
        return StepResult(step, loss, 1.0, 1e-4, units, skipped=False, metrics={})


def written_anew(batch, sample, said):
    """Have a rollout's conversation written anew before each of its last turns; `said` are its turns' lengths."""
    turns = [
        first_turn("p", sample, np.array([sample, 9], np.int32), np.full(n, 7), np.full(n, -1.0), STOP, 1) for n in said
    ]
    batch.groups[0].answers[sample] = replace(turns[-1], earlier=tuple(turns[:-1]))


@pytest.mark.parametrize(("parts", "tokens"), [(1, 256), (1, 1024), (2, 256)])
def test_a_mean_over_responses_counts_one_of_several_documents_once(parts, tokens):
    """In float64: the mean over responses of the mean over all of a response's tokens, however it is cut."""
    batch = batch_of([STOP] * 4, [True, True, True, False])
    said = [[1, 4, 2], [RESPONSE], [2, 60], [5, 1]]
    for sample in (0, 2, 3):
        written_anew(batch, sample, said[sample])
    policy = Trained(dict.fromkeys(range(4), 0.0))
    settings = ("loss.aggregation=sequence", f"updates_per_batch={parts}", f"seq_length={tokens}")
    update(policy, batch, *settings)
    of_update = [[0, 1, 2, 3]] if parts == 1 else [[0, 1], [2, 3]]
    for (loss, gradients), samples in zip(policy.trained, of_update, strict=True):
        advantages = {s: batch.advantages[0, s] for s in samples if batch.marks.trained[0, s]}
        assert loss == pytest.approx(-np.mean(list(advantages.values())), rel=1e-6)
        due = [
            -advantages.get(s, 0.0) / sum(said[s]) / len(advantages) * np.array([0, *[1] * n, 0])
            for s in samples
            for n in said[s]
        ]
        for found, wanted in zip(gradients, due, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_response_of_several_documents_is_filtered_as_a_whole():
    batch = batch_of([STOP] * 3, [True] * 3)
    written_anew(batch, 1, [RESPONSE, RESPONSE])
    policy = Policy({0: [0.0] * 3, 1: [math.log(2.5)] * 3, 2: [0.0] * 3})
    assert update(policy, batch, "loss.sequence_error_max=2").filtered == 1
    assert policy.trained == [(5, 2 * RESPONSE)]


def with_experts(batch):
    """Return the batch as of an engine that tells experts: of token t its number, in one layer of one expert."""
    (group,) = batch.groups
    said = []
    for answer in group.answers:
        routed = np.arange(len(answer.token_ids), dtype=np.int16)[:, None, None]
        routed[-1] = -1
        said.append(replace(answer, routed_experts=routed))
    return replace(batch, groups=[replace(group, answers=said)])


class ReplayingPolicy(Policy):
    """Agrees with the engine where its experts are replayed, and keeps what each pass got."""

    def __init__(self, gaps):
        super().__init__(gaps)
        self.passes = []

    def logprobs(self, source, step, which="policy"):
        replays = [d.routed_experts is not None for d in source.documents]
        self.passes.append((which, all(replays)))
        assert all(replays) or not any(replays)
        given = self.gaps
        self.gaps = dict.fromkeys(given, 0.0) if all(replays) else given
        scores = super().logprobs(source, step, which)
        self.gaps = given
        return scores

    def train_step(self, source, step):
        (pack,) = source.micro_batches(step, 0, 1)
        assert pack.routed_experts[: PROMPT + RESPONSE, 0, 0].tolist() == [0, 1, 2, 3, -1]
        return super().train_step(source, step)


def test_experts_are_replayed_where_the_policy_scores_and_trains_and_not_by_the_reference():
    policy = ReplayingPolicy({0: [0.0, 0.5, 0.0], 1: [0.0, 0.0, -0.25]})
    batch = with_experts(batch_of([STOP] * 2, [True] * 2))
    replay = ["router_replay.enabled=true", "router_replay.measure_every=5"]
    updates = update(policy, batch, *replay, "loss.sequence_error_max=1.01", "loss.kl_coefficient=0.1")
    assert policy.passes == [("policy", False), ("policy", True), ("reference", False)]
    assert updates.filtered == 0
    assert updates.unreplayed == {
        "logprob_difference_mean_unreplayed": pytest.approx(0.75 / 6),
        "logprob_difference_max_unreplayed": pytest.approx(0.5),
    }
    rarely = update(policy, batch, replay[0], "router_replay.measure_every=2")  # it is step 5
    assert rarely.unreplayed == {}


def test_a_rollout_without_experts_is_refused_where_they_are_replayed():
    with pytest.raises(RolloutError, match=r"p sample 0.*routed_experts"):
        update(Policy({0: 0.0}), batch_of([STOP], [True]), "router_replay.enabled=true")
