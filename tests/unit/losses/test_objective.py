"""The table of objectives: what each asks of model and batch follows from its switches."""

import pytest

from nemo_cascade.config.stages.policy_loss import PolicyLossConfig, TeacherAdvantageConfig
from nemo_cascade.config.stages.preference import PreferenceLossConfig
from nemo_cascade.losses.cross_entropy import SftLoss
from nemo_cascade.losses.objective import LossSpec
from nemo_cascade.losses.policy import PolicyLoss
from nemo_cascade.losses.preference import Preference
from nemo_cascade.losses.reward_model import BradleyTerry, Regression


def test_supervised_and_pair_losses_need_nothing_but_their_labels():
    assert SftLoss().spec() == LossSpec("token")
    assert BradleyTerry().spec() == LossSpec("pair", whole_documents=True)
    assert {BradleyTerry().head(), Regression((("a", 1.0),)).head()} == {"score"}


def test_further_tensors_are_asked_for_where_a_form_reads_them():
    assert BradleyTerry("scaled").spec().extras == {"strength"}
    assert Regression((("a", 0.5), ("b", 0.0))).spec() == LossSpec(
        "rating", {"rating_a", "rating_b"}, whole_documents=True
    )
    assert Preference(PreferenceLossConfig()).spec() == LossSpec(
        "pair", extras={"reference_logprobs"}, whole_documents=True
    )
    for reads in ({"form": "rpo_bwd_kl"}, {"margin": True}):
        assert Preference(PreferenceLossConfig(**reads)).spec().extras == {"reference_logprobs", "rewards"}


@pytest.mark.parametrize(
    ("switches", "unit", "extras", "reference"),
    [
        ({}, "token", set(), False),
        ({"aggregation": "sequence"}, "sequence", {"sequence_weights"}, False),
        ({"correction": "truncated"}, "token", {"behaviour_logprobs"}, False),
        ({"kl_coefficient": 0.1}, "token", {"reference_logprobs"}, True),
        ({"kl_coefficient": 0.1, "kl_correction": True}, "token", {"reference_logprobs", "behaviour_logprobs"}, True),
    ],
)
def test_a_policy_loss_asks_for_what_its_switches_read(switches, unit, extras, reference):
    objective = PolicyLoss.from_start(PolicyLossConfig(**switches), 1.0, "start")
    spec = objective.spec()
    assert (spec.unit, objective.head(), objective.reference_folder()) == (unit, "lm", "start" if reference else None)
    assert spec.extras == extras | {"advantages"}


@pytest.mark.parametrize(("student", "further"), [("current", set()), ("previous", {"previous_logprobs"})])
def test_a_teachers_word_stands_in_for_given_advantages(student, further):
    spec = PolicyLoss(PolicyLossConfig(), teacher=TeacherAdvantageConfig(student=student)).spec()
    assert spec.extras == {"teacher_logprobs"} | further
