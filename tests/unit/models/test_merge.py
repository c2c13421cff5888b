"""Merged weights: what was asked for, in the dtype that is stored, and nothing that doesn't fit."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from nemo_cascade.errors import ModelError
from nemo_cascade.models import merge
from nemo_cascade.models.hf_folder import HfTensors
from nemo_cascade.models.merge import Blend

SHAPES = {"a": (7, 3), "b": (5,), "c": ()}


def folder(path, dtype=torch.bfloat16, rows=7, seed=0):
    path.mkdir()
    generator = torch.Generator().manual_seed(seed)
    shapes = SHAPES | {"a": (rows, 3)}
    tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return path, tensors


@pytest.fixture(autouse=True)
def two_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(merge, "_ROWS_BYTES", 24)


def read(path):
    files = HfTensors(path)
    return {name: files.part(name)[...] for name in files.stored}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_tensor_is_the_weighted_mean_in_the_stored_dtype(tmp_path, share):
    (one, left), (other, right) = folder(tmp_path / "one"), folder(tmp_path / "other", seed=1)
    merge.merge_models([one, other], Blend(share), tmp_path / "merged")
    merged = read(tmp_path / "merged")
    assert merged.keys() == right.keys()
    for name in right:
        expected = (left[name].double() * (1 - share) + right[name].double() * share).bfloat16()
        torch.testing.assert_close(merged[name], expected, rtol=2**-8, atol=1e-6)
    if share in (0.0, 1.0):
        assert all(torch.equal(merged[n], (left, right)[int(share)][n]) for n in right)


def slerp(values, _, a, __):
    x, y = (v.double().flatten() for v in values)
    angle = math.acos(float(x @ y / (x.norm() * y.norm())))
    if angle < 1e-4 or math.pi - angle < 1e-4:
        return ((1 - a) * x + a * y).reshape(values[0].shape)
    return ((math.sin((1 - a) * angle) * x + math.sin(a * angle) * y) / math.sin(angle)).reshape(values[0].shape)


def task_arithmetic(values, base, a, _):
    return base.double() + a * sum(v.double() - base.double() for v in values)


def ties(values, base, a, density):
    """Place by place, from the paper's three steps."""
    flat = [(v.double() - base.double()).flatten().tolist() for v in values]
    kept = []
    for difference in flat:
        k = max(1, round(density * len(difference)))
        bound = sorted(map(abs, difference), reverse=True)[k - 1]
        kept.append([d if abs(d) >= bound else 0.0 for d in difference])
    merged = []
    for place in zip(*kept, strict=True):
        sign = math.copysign(1, sum(place)) if sum(place) else 0
        own = [d for d in place if d * sign > 0]
        merged.append(sum(own) / len(own) if own else 0.0)
    return base.double() + a * torch.tensor(merged, dtype=torch.float64).reshape(base.shape)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("method", "formula"), [("slerp", slerp), ("task_arithmetic", task_arithmetic), ("ties", ties)]
)
def test_every_method_equals_its_formula_over_whole_tensors(tmp_path, method, formula, seed):
    count = 2 if method == "slerp" else 3
    made = [folder(tmp_path / f"m{i}", torch.float32, seed=10 * seed + i) for i in range(count)]
    base, origin = folder(tmp_path / "base", torch.float32, seed=99)
    ratio, density = (0.3, 0.7, 0.0, 1.0, 0.5)[seed], (0.2, 0.5, 0.9, 1.0, 0.01)[seed]
    blend = Blend(ratio, method, density)
    merge.merge_models([path for path, _ in made], blend, tmp_path / "out", None if method == "slerp" else base)
    for name, tensor in read(tmp_path / "out").items():
        expected = formula([tensors[name] for _, tensors in made], origin[name], ratio, density)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)


def test_models_of_other_shapes_or_names_are_refused(tmp_path):
    (one, _), (other, _) = folder(tmp_path / "one"), folder(tmp_path / "other", rows=8)
    with pytest.raises(ModelError, match=r"can't be merged.*1, e\.g\. a"):
        merge.merge_models([one, other], Blend(0.5), tmp_path / "merged")
    with pytest.raises(ModelError, match="can't be merged"):
        merge.merge_models([one, one], Blend(0.5, "ties"), tmp_path / "merged", other)
    assert not (tmp_path / "merged").exists()
