"""Merged weights: the mean that was asked for, in the dtype that is stored, and nothing that doesn't fit."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nemo_cascade.errors import ModelError
from nemo_cascade.models import merge
from nemo_cascade.models.hf_folder import HfTensors


def folder(path, dtype=torch.bfloat16, rows=7, seed=0):
    path.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in {"a": (rows, 3), "b": (5,)}.items()}
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return path, tensors


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_tensor_is_the_weighted_mean_in_the_stored_dtype(tmp_path, monkeypatch, share):
    monkeypatch.setattr(merge, "_ROWS_BYTES", 12)  # two rows at a time
    (one, left), (other, right) = folder(tmp_path / "one"), folder(tmp_path / "other", seed=1)
    merge.merge_models(one, other, share, tmp_path / "merged")
    merged = HfTensors(tmp_path / "merged")
    assert merged.stored.keys() == right.keys()
    for name in right:
        expected = (left[name].double() * (1 - share) + right[name].double() * share).bfloat16()
        torch.testing.assert_close(merged.part(name)[:], expected, rtol=2**-8, atol=1e-6)
    if share in (0.0, 1.0):
        assert all(torch.equal(merged.part(n)[:], (left, right)[int(share)][n]) for n in right)


def test_models_of_other_shapes_or_names_are_refused(tmp_path):
    (one, _), (other, _) = folder(tmp_path / "one"), folder(tmp_path / "other", rows=8)
    with pytest.raises(ModelError, match=r"can't be merged.*1, e\.g\. a"):
        merge.merge_models(one, other, 0.5, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
