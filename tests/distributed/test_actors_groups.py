"""The real roles on one Ray: two policy ranks, one engine, one verifier pool; and small actors that misbehave."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from nemo_cascade.actors.agreement import prove_equal
from nemo_cascade.actors.cluster import Cluster
from nemo_cascade.actors.fleet import Fleet
from nemo_cascade.actors.last_words import FETCH_DEADLINE_S
from nemo_cascade.actors.reward import RewardGroup
from nemo_cascade.actors.rollout import RolloutGroup
from nemo_cascade.actors.sync import sync_one, sync_weights
from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.rollout import RolloutConfig, SamplingConfig, WeightSyncConfig
from nemo_cascade.config.schema import ClusterConfig, EnvironmentConfig, RewardConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import ActorDiedError, DeadlineError, RolloutError, TrainingError, WeightSyncError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.rollout.manifest import WeightManifest
from nemo_cascade.stages.roles import Roles
from nemo_cascade.types import FinishReason, Question, Task, first_turn
from tests.support.odd_actors import MisbehavingActor
from tests.support.pinned_nano import PINNED
from tests.support.streams import flat, questions
from tests.support.tiny_policy import TinySource, policy_setup, write_tiny_folder

pytestmark = pytest.mark.distributed

SYNC = WeightSyncConfig(bucket_mib=1, deadline_s=60)
CONFIG = RolloutConfig(
    dtype="fp32", max_model_len=512, max_num_seqs=64, kv_cache_gib=0.125, weight_sync=SYNC, generate_deadline_s=120
)
LONG = SamplingConfig(max_tokens=300)
VOCAB = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Untied and of several MiB: the head is a weight of its own, and a hand-over takes several buckets.
    path = tmp_path_factory.mktemp("groups") / "model"
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": VOCAB}
    written = write_tiny_folder(path, tie_word_embeddings=False, **sizes)
    train_nano_tokenizer(["1 + 2 = 3", "user assistant"] * 8, path)
    return written


@pytest.fixture(scope="module")
def cluster():
    with Cluster(ClusterConfig(device="cpu", step_deadline_s=60)) as running:
        yield running


@pytest.fixture(scope="module")
def setup(folder):
    return policy_setup(folder, tp=2)


@pytest.fixture(scope="module")
def policy(cluster, setup):
    group = TrainerGroup(cluster, setup.parallel)
    group.setup(setup)
    yield group
    group.close()


@pytest.fixture(scope="module")
def rollout(cluster, folder):
    group = RolloutGroup(cluster, CONFIG, folder, seed=3)
    yield group
    group.close()


def prompts(count=4):
    rng = np.random.default_rng(1)
    return [Task(f"p/{i}", "math", "math", rng.integers(8, VOCAB, 40).astype(np.int32), {}) for i in range(count)]


def bits(rollouts):
    return {(r.task_id, r.sample): (r.response_ids.tobytes(), r.sampled_logprobs.tobytes(), r.turns) for r in rollouts}


# --- calls -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(cluster):
    members = Fleet(cluster, "odd", TrainingError)
    for _ in range(2):
        members.add(MisbehavingActor, cluster.environment(1))
    members.wait_until_up()
    yield members
    members.close()


def call(fleet, how, victim, deadline_s=30):
    refs = {m.name: m.handle.behave.remote(how, i, victim) for i, m in enumerate(fleet.members)}
    return fleet.gather(refs, "behave", deadline_s)


def test_a_call_answers_in_order_or_raises_a_members_own_error(fleet):
    assert call(fleet, "work", None) == [0, 1]
    with pytest.raises(RolloutError) as caught:
        call(fleet, "raise", 1)
    assert (caught.value.value, caught.value.limit, caught.value.mend) == (7, 5, "shorten it")
    with pytest.raises(TrainingError, match="odd-0 failed in behave; got: ZeroDivisionError: no type of ours"):
        call(fleet, "crash", 0)
    assert call(fleet, "work", None) == [0, 1]  # all had answered: nothing is broken


def test_a_member_that_says_nothing_is_named_with_its_method_and_its_stack(fleet):
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="odd-1 of 2 odd actors did not answer behave") as caught:
        call(fleet, "hang", 1, deadline_s=1.0)
    assert time.monotonic() - started < 6
    assert "sleep_for_ever" in str(caught.value)
    with pytest.raises(ActorDiedError, match="odd-1 never answered behave"):
        fleet.call("hello", deadline_s=5)


@pytest.mark.parametrize("machine", ["here", "another"])
def test_a_dead_member_ends_the_call_though_the_others_wait_and_its_last_words_are_told(fleet, machine):
    if machine == "another":  # of this node, but as a driver elsewhere would have to ask for them
        fleet.members[0].info = replace(fleet.members[0].info, machine="another")
    started = time.monotonic()
    with pytest.raises(ActorDiedError, match="odd-0 died during behave") as caught:
        call(fleet, "die", 0)
    assert time.monotonic() - started < 10 + (FETCH_DEADLINE_S if machine == "another" else 0)
    assert "the device fell off the bus" in str(caught.value)


def test_a_role_has_its_own_environment(cluster, monkeypatch):
    own = EnvironmentConfig(policy={"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "3"})
    monkeypatch.setattr(cluster, "config", replace(cluster.config, environment=own))
    members = Fleet(cluster, "policy", TrainingError)
    try:
        members.add(MisbehavingActor, cluster.environment(1))
        members.wait_until_up()
        wanted = {"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "3", "NVIDIA_TF32_OVERRIDE": "0"}
        for name, value in wanted.items():
            assert members.call("variable", name, deadline_s=30) == [value]
    finally:
        members.close()


def buckets_open(group):
    """Count the weight buckets that a role's processes hold or have open."""
    links = [link for pid in group.pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    return sum("memfd:bucket_" in os.readlink(link) for link in links if link.is_symlink())


# --- weights ---------------------------------------------------------------------------------------------------------


def test_every_hand_over_is_proven_and_a_skipped_one_is_caught(policy, rollout, setup):
    report = sync_weights(policy, rollout, 1, SYNC, verify=True)
    assert report.buckets > 3  # more than fit in flight
    assert report.weights_proven == len(WeightManifest.of_folder(Path(setup.hf_path)).shapes)
    assert 0 < report.agreement.floor.max < 1e-4
    assert report.agreement.engines.max < 1e-4
    before = bits(flat(rollout.generate(questions(prompts(), 4), LONG, 7)))
    policy.train_step(TinySource(), 0)
    with pytest.raises(WeightSyncError, match="don't compute the same log-probs"):
        prove_equal(policy, rollout, SYNC, 2)
    assert sync_weights(policy, rollout, 2, SYNC, verify=True).agreement.engines.max < 1e-4
    after = list(flat(rollout.generate(questions(prompts(), 4), LONG, 7)))
    assert {turn.version for r in after for turn in r.turns} == {2}
    assert bits(after) != before


def test_the_proof_holds_at_the_temperature_of_the_stage(policy, rollout, setup, folder):
    from nemo_cascade.config.stages.policy_loss import PolicyLossConfig
    from nemo_cascade.losses.policy import PolicyLoss

    policy.setup(policy_setup(folder, tp=2, objective=PolicyLoss(PolicyLossConfig(), temperature=0.6)))
    try:
        report = sync_weights(policy, rollout, 3, SYNC, verify=True)
        assert report.agreement.engines.max < 1e-4
    finally:
        policy.setup(setup)


def test_weights_reach_an_engine_on_another_machine_by_message(policy, rollout):
    policy.train_step(TinySource(), 1)
    member = rollout.fleet.members[0]
    info, member.info = member.info, replace(member.info, machine="elsewhere")
    try:
        assert sync_weights(policy, rollout, 4, SYNC, verify=True).agreement.engines.max < 1e-4
    finally:
        member.info = info
    assert buckets_open(policy) == buckets_open(rollout) == 0


def test_a_hand_over_that_fails_half_way_leaves_all_ranks_usable(policy, rollout, monkeypatch):
    member = rollout.fleet.members[0]
    member.handle.begin_update.remote(5)  # so that the group's own begin is an illegal step
    with pytest.raises(WeightSyncError, match="illegal step"):
        sync_weights(policy, rollout, 6, SYNC, verify=False)

    sent = []
    original = rollout.fleet.gather

    def failing(refs, method, deadline_s):
        sent.append(method)
        if sent.count("receive") == 2:
            raise WeightSyncError("on purpose")
        return original(refs, method, deadline_s)

    monkeypatch.setattr(rollout.fleet, "gather", failing)
    with pytest.raises(WeightSyncError, match="on purpose"):
        sync_weights(policy, rollout, 7, SYNC, verify=False)
    monkeypatch.undo()
    with pytest.raises(WeightSyncError, match="complete set of weights"):
        list(flat(rollout.generate(questions(prompts(1), 1), LONG, 1)))
    assert buckets_open(policy) == buckets_open(rollout) == 0
    assert sync_weights(policy, rollout, 8, SYNC, verify=True).agreement.engines.max < 1e-4


def test_a_refused_prompt_keeps_its_type_through_the_stream(rollout):
    with pytest.raises(RolloutError, match="too long for their response"):
        list(flat(rollout.generate([Question("p/0", np.zeros(500, np.int32), range(1))], LONG, 1)))


def test_leaving_a_generation_early_stops_the_engine_and_leaves_no_trace(rollout):
    before = bits(flat(rollout.generate(questions(prompts(2), 4), LONG, 1)))
    stream = flat(rollout.generate(questions(prompts(), 64), LONG, 1))
    next(stream)
    stream.close()
    started = time.monotonic()
    assert bits(flat(rollout.generate(questions(prompts(2), 4), LONG, 1))) == before
    assert time.monotonic() - started < 20


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_responses_are_decoded_and_judged_once_each(cluster, folder):
    group = RewardGroup(cluster, RewardConfig(workers=1), folder)
    try:
        group.self_test(["math"])
        tokenizer = load_tokenizer(folder)
        asked = Task("p/0", "math", "math", np.zeros(3, np.int32), {"answer": "3"})
        for first in range(0, 40, 8):
            together = []
            for i in range(first, first + 8):
                ids = np.r_[tokenizer.encode(f"so \\boxed{{{i % 4}}}"), tokenizer.end_id].astype(np.int32)
                logprobs = np.zeros(len(ids), np.float32)
                rollout = first_turn("p/0", i, asked.token_ids, ids, logprobs, FinishReason.STOP, 0)
                together.append((asked, rollout))
            group.submit(together)
        verdicts = dict(group.drain())
        assert {k: v.score for k, v in verdicts.items()} == {("p/0", i): float(i % 4 == 3) for i in range(40)}
        assert group.drain() == []
    finally:
        group.close()


# --- deaths: last, they cost actors ----------------------------------------------------------------------------------


@pytest.mark.long  # an engine more to start; what becomes of a dead member's call is met above
def test_an_engine_killed_in_a_generation_is_replaced_bit_for_bit_and_only_once(policy, rollout):
    sync_weights(policy, rollout, 20, SYNC, verify=False)
    undisturbed = bits(flat(rollout.generate(questions(prompts(), 12), LONG, 5)))
    stream = flat(rollout.generate(questions(prompts(), 12), LONG, 5))
    disturbed = [next(stream)]
    os.kill(rollout.pids[0], signal.SIGKILL)
    disturbed += list(stream)
    assert len(disturbed) == 4 * 12
    assert bits(disturbed) == undisturbed
    assert rollout.restarts == {"rollout-0": 1}

    stream = flat(rollout.generate(questions(prompts(), 12), LONG, 5))
    next(stream)
    os.kill(rollout.pids[0], signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(ActorDiedError, match="rollout-0 died during generate"):
        list(stream)
    assert time.monotonic() - started < 10
    with pytest.raises(ActorDiedError, match="can't be used any more"):
        list(flat(rollout.generate(questions(prompts(), 1), LONG, 5)))


@pytest.mark.long
def test_an_engine_that_died_while_the_policy_went_on_gets_its_later_weights_alone(policy, cluster, folder):
    group = RolloutGroup(cluster, CONFIG, folder, seed=3)
    try:
        sync_weights(policy, group, 30, SYNC, verify=False)
        group.hold(30, lambda member: sync_one(policy, group, member, 31, SYNC))
        stream = flat(group.generate(questions(prompts(), 8), LONG, 5))
        answers = [next(stream)]
        policy.train_step(TinySource(), 1)
        os.kill(group.pids[0], signal.SIGKILL)
        answers += list(stream)
        versions = [turn.version for answer in answers for turn in answer.turns]
        assert versions[0] == 30
        assert versions[-1] == 31
        assert len({(answer.task_id, answer.sample) for answer in answers}) == len(answers) == 4 * 8
        report = sync_weights(policy, group, 31, SYNC, verify=True)
        assert (report.buckets, report.agreement.engines.mean < 1e-4) == (0, True)
    finally:
        group.close()


def test_a_dead_rank_ends_the_step_and_not_the_deadline(policy):
    os.kill(policy.pids[1], signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(ActorDiedError, match="policy-1 died during train_step"):
        policy.train_step(TinySource(), 2)
    assert time.monotonic() - started < 15


@pytest.mark.long
def test_ranks_of_another_layout_are_let_go_and_the_new_ones_train_alike(cluster, folder, setup, tmp_path):
    roles = Roles(compose(PINNED)[0], tmp_path)
    roles.cluster = cluster
    split, whole = replace(setup, seq_length=128), replace(policy_setup(folder), seq_length=128)
    two = roles.policy(split)
    pids, loss = two.pids, two.train_step(TinySource(), 0).loss
    one = roles.policy(whole)
    try:
        assert len(pids) == 2
        assert len(one.pids) == 1
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert one.train_step(TinySource(), 0).loss == pytest.approx(loss, rel=1e-5)
        assert roles.policy(whole) is one
    finally:
        one.close()
