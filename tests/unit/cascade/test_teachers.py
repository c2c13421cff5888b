"""A teacher is the model that its stage's gate decided on, or the next stage doesn't start."""

import pytest

from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.cascade.teachers import check_teachers
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.errors import ModelError
from nemo_cascade.storage.hashes import hash_folder


def test_a_teacher_whose_weights_changed_since_its_gate_is_refused(tmp_path):
    stage = compose(["cascade=nano_distill"])[0].stages["mopd"]
    ledger, models = Ledger(tmp_path / "ledger.jsonl"), {}
    for name in ("sft", "chat_rl"):
        models[name] = tmp_path / name
        models[name].mkdir()
        (models[name] / "model.safetensors").write_bytes(name.encode())
        ledger.append("decided", name, weights=hash_folder(models[name]))
    check_teachers(stage, models, ledger)
    (models["sft"] / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ModelError, match=r"isn't the model that its stage left; got: teachers\.math=sft"):
        check_teachers(stage, models, ledger)
