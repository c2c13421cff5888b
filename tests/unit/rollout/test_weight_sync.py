import json

import pytest
import torch
from safetensors.torch import save_file

from nemo_cascade.errors import DeadlineError, ModelError, WeightSyncError
from nemo_cascade.rollout.buckets import TensorEntry
from nemo_cascade.rollout.manifest import WeightManifest
from nemo_cascade.rollout.weight_sync import LEGAL, SyncPhase, SyncState

ROUND = [SyncPhase.PAUSED, SyncPhase.RECEIVING, SyncPhase.VERIFYING, SyncPhase.GENERATING]
WAY_TO = {
    SyncPhase.GENERATING: [],
    SyncPhase.PAUSED: ROUND[:1],
    SyncPhase.RECEIVING: ROUND[:2],
    SyncPhase.VERIFYING: ROUND[:3],
    SyncPhase.BROKEN: [*ROUND[:2], SyncPhase.BROKEN],
}


@pytest.mark.parametrize("phase", list(SyncPhase))
def test_only_the_drawn_steps_are_possible(phase):
    for target in SyncPhase:
        state = SyncState(60)
        for step in WAY_TO[phase]:
            state.move(step)
        assert state.phase is phase
        if target in LEGAL[phase]:
            state.move(target)
            assert state.phase is target
        else:
            with pytest.raises(WeightSyncError, match="illegal step"):
                state.move(target)
            assert state.phase is phase


def test_a_broken_engine_gets_out_only_by_a_whole_round():
    assert LEGAL[SyncPhase.BROKEN] == {SyncPhase.PAUSED}
    state = SyncState(60)
    for step in WAY_TO[SyncPhase.BROKEN]:
        state.move(step)
    with pytest.raises(WeightSyncError, match="complete set of weights"):
        state.require(SyncPhase.GENERATING, "generate")


def test_a_phase_that_hangs_is_named_and_can_still_be_left_as_broken():
    state = SyncState(deadline_s=-1)
    state.move(SyncPhase.PAUSED)
    with pytest.raises(DeadlineError, match="phase paused"):
        state.move(SyncPhase.RECEIVING)
    state = SyncState(deadline_s=60)
    state.move(SyncPhase.PAUSED)
    state.move(SyncPhase.RECEIVING)
    state.deadline_s = -1
    with pytest.raises(DeadlineError, match="phase receiving"):
        state.require(SyncPhase.RECEIVING, "receive")
    state.move(SyncPhase.BROKEN)


def test_generating_has_no_deadline():
    SyncState(deadline_s=-1).require(SyncPhase.GENERATING, "generate")


def manifest(folder, tied=True):
    save_file({"embed": torch.zeros(4, 2), "norm": torch.zeros(2)}, folder / "model-1.safetensors")
    save_file({"up": torch.zeros(3, 2)}, folder / "model-2.safetensors")
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    return WeightManifest.of_folder(folder)


def entry(name, shape, dtype="float32"):
    return TensorEntry(name, dtype, shape, 0, 0)


def test_a_weight_that_was_never_sent_is_named(tmp_path):
    expected = manifest(tmp_path)
    assert expected.shapes == {"embed": (4, 2), "norm": (2,), "up": (3, 2)}
    expected.check_complete({"embed", "norm", "up"})
    expected.check_complete({"embed", "norm", "up", "lm_head.weight"})
    with pytest.raises(WeightSyncError, match="2 of 3 weights were never sent") as caught:
        expected.check_complete({"norm"})
    assert caught.value.value == "embed, up"


def test_all_misfits_of_a_bucket_are_listed(tmp_path):
    entries = [entry("embed", (5, 2)), entry("ghost", (1,)), entry("norm", (2,), "bfloat16"), entry("up", (3, 2))]
    with pytest.raises(WeightSyncError) as caught:
        manifest(tmp_path).check_bucket(entries, "float32", received={"up"})
    text = str(caught.value)
    assert caught.value.what.startswith("4 ")
    for part in ("shape (5, 2), the engine's is (4, 2)", "no such weight", "dtype bfloat16", "up: sent twice"):
        assert part in text


def test_a_tied_head_may_be_sent_and_an_untied_ghost_may_not(tmp_path):
    head = [entry("lm_head.weight", (4, 2))]
    manifest(tmp_path, tied=True).check_bucket(head, "float32", set())
    with pytest.raises(WeightSyncError, match="no such weight"):
        manifest(tmp_path, tied=False).check_bucket(head, "float32", set())


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError):
        WeightManifest.of_folder(tmp_path)
