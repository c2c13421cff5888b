"""Who may teach what: refused before a run, all of it at once."""

import json
from dataclasses import asdict

import pytest

from nemo_cascade.cli.preflight import architecture_of
from nemo_cascade.cli.verbs.plan import teachers_told
from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig
from nemo_cascade.errors import CascadeError, ModelError
from nemo_cascade.rl.rewards import stage_formula
from nemo_cascade.stages.teachers import check_speaks, logit_teacher, taught_by

NANO = ["cascade=nano_distill"]


def found(*overrides):
    return [str(v) for v in violations(compose([*NANO, *overrides])[0])]


def test_the_shipped_stage_is_the_papers_and_the_nano_twin_has_nothing_to_refuse():
    config = compose(NANO)[0]
    assert violations(config) == []
    loss = config.stages["mopd"].loss
    assert (loss.aggregation, loss.correction, loss.correction_min, loss.correction_max) == (
        *("sequence", "icepop", 0.5, 2.0),
    )


def test_teachers_that_can_not_teach_are_listed_together():
    lines = found(
        "~stages.mopd.teachers.math",
        "stages.mopd.teachers.chat=mopd",
        "+stages.mopd.teachers.code=later",
        "+stages.mopd.teachers.swe=sft",
        "stages.mopd.sampling.top_p=0.9",
        "stages.mopd.tasks.chat.weight=null",
        "stages.mopd.seq_length=64",
    )
    for words in (
        "a domain has no teacher; got: stages.mopd.tasks: math",
        "a teacher has nothing to teach; got: stages.mopd.teachers.code",
        "a teacher has nothing to teach; got: stages.mopd.teachers.swe",
        "no policy by then; got: stages.mopd.teachers.chat=mopd; allowed: start, sft, chat_rl, or an HF folder",
        "got: stages.mopd.loss: correction=icepop with sampling top_p=0.9",
        "no share of the batch where others have one; got: stages.mopd.tasks: chat",
        "got: stages.mopd.seq_length=64; allowed: at least 96",
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert len(lines) == 7, lines


def test_a_plan_says_who_teaches_and_what_that_takes():
    config = compose([*NANO, "stages.mopd.teachers={math: sft, chat: sft}", "precision=bf16"])[0]
    model, stage = architecture_of(config), config.stages["mopd"]
    one = teachers_told(config, stage, model)
    assert one.startswith("sft (math, chat); 0.000")
    assert "on each of 1 rank" in one
    assert teachers_told(config, config.stages["sft"], model) == ""
    two = teachers_told(config, compose(NANO)[0].stages["mopd"], model)

    def gib(told):
        return float(told.partition("; ")[2].split()[0])

    assert gib(two) == pytest.approx(2 * gib(one), rel=0.01)


def test_the_formula_names_gate_and_teachers():
    gate = "icepop 0.5 to 2 on trainer / engine"
    told = stage_formula(asdict(compose(NANO)[0].stages["mopd"]))
    assert told == f"A = log p of the teacher - log p, token by token; {gate}; math: sft, chat: chat_rl"


def write_model(folder, tokens, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": tokens[0]}
    blank = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **blank, "model": model}))
    return folder


CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 4,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def test_a_teacher_must_speak_the_policys_tokens(tmp_path):
    policy = write_model(tmp_path / "policy", "abc")
    check_speaks(write_model(tmp_path / "same", "abcd"), policy, None)
    with pytest.raises(ModelError, match=r"another tokenizer than the policy; got: .*: 2 tokens differ, first 'b'"):
        check_speaks(write_model(tmp_path / "other", "acb"), policy, None)
    with pytest.raises(ModelError, match="lacks embeddings for the policy's tokens"):
        check_speaks(write_model(tmp_path / "small", "abc", vocab_size=2), policy, None)
    (tmp_path / "same" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        check_speaks(tmp_path / "same", policy, None)


def test_a_model_that_teaches_several_domains_is_one_folder(tmp_path):
    stage = compose([*NANO, f"stages.mopd.teachers={{math: sft, chat: '{tmp_path}/x/../made'}}"])[0].stages["mopd"]
    folders = taught_by(stage, {"sft": tmp_path / "made"})
    assert folders == dict.fromkeys(("math", "chat"), str(tmp_path / "made"))


LOGITS = [
    "~stages.chat_rl",
    "~stages.mopd",
    "stages.sft.teacher={model: start, temperature: 2, cross_entropy_weight: 0.1}",
]


def test_a_teacher_of_logits_is_told_and_one_that_comes_later_is_refused():
    config = compose([*NANO, *LOGITS])[0]
    assert violations(config) == []
    stage = config.stages["sft"]
    told = stage_formula(asdict(stage))
    assert told == "loss = 2^2 x KL(teacher || policy) at temperature 2 + 0.1 x cross entropy; start"
    assert teachers_told(config, stage, architecture_of(config)).startswith("start (teacher.model); 0.00")
    (line,) = found("stages.sft.teacher.model=chat_rl")
    assert "no policy by then; got: stages.sft.teacher.model=chat_rl; allowed: start, or an HF folder" in line
    with pytest.raises(CascadeError, match="temperature"):
        compose([*NANO, "stages.sft.teacher={model: start, temperature: 0}"])


def test_a_teacher_of_logits_has_the_students_tokens_and_as_many_columns(tmp_path):
    student = write_model(tmp_path / "student", "abc")
    write_model(tmp_path / "same", "abc", hidden_size=16)
    same = LogitTeacherConfig(model="earlier")
    assert logit_teacher(same, {"earlier": tmp_path / "same"}, student, None) == tmp_path / "same"
    write_model(tmp_path / "wide", "abc", vocab_size=5)
    with pytest.raises(ModelError, match=r"another vocabulary than its student; got: .*vocab_size=5; allowed: .*=4"):
        logit_teacher(LogitTeacherConfig(model=str(tmp_path / "wide")), {}, student, None)
    write_model(tmp_path / "other", "acb")
    with pytest.raises(ModelError, match="another tokenizer than the policy"):
        logit_teacher(LogitTeacherConfig(model=str(tmp_path / "other")), {}, student, None)
