"""Manifests name the first file that isn't as written; hashes are those that data on disk are named by."""

import pytest

from nemo_cascade.storage.hashes import hash_json, hash_recipe
from nemo_cascade.storage.manifest import Fault, describe, find_fault

# blake3 of b"content"
DIGEST = "3fba5250be9ac259c56e7250c526bc83bacb4be825f2799d3d59e5b4878dd74e"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "deep" / "b").write_bytes(b"")
    return tmp_path


def test_every_file_is_described_and_holds_or_is_named(folder):
    manifest = describe(folder)
    assert list(manifest) == ["a", "deep/b"]
    assert manifest["a"] == {"bytes": 7, "blake3": DIGEST}
    assert find_fault(folder, manifest) is None
    (folder / "a").write_bytes(b"Content")
    assert find_fault(folder, manifest, sizes_only=True) is None
    assert find_fault(folder, manifest).found.startswith("blake3 ")
    (folder / "a").write_bytes(b"c")
    assert str(find_fault(folder, manifest)) == "a: 1 bytes, written were 7 bytes"
    (folder / "a").unlink()
    assert find_fault(folder, manifest) == Fault("a", "missing", "7 bytes")
    assert find_fault(folder, describe(folder, ["deep/b"])) is None


def test_a_hash_alone_is_a_manifest_too_and_anything_else_is_a_fault(folder):
    assert find_fault(folder, {"a": DIGEST}) is None
    assert find_fault(folder, {"a": DIGEST[::-1]}).name == "a"
    for broken in (None, [], {"a": None}, {"a": 7}, {"a": {}}, {"a": {"bytes": 7}}):
        assert find_fault(folder, broken) is not None


def test_the_two_forms_of_json_keep_their_hashes():
    value = {"ü": [1, 0.5, None], "a": {"c": True, "b": "x"}}
    assert hash_json(value) == "1a00fef152ad952d7e9aaaeddba2217596b151abe42e6553f657c4dea4e0e209"
    assert hash_recipe(value) == "0467ff0e82a8ec9fa50f1ce976a98ddaa8972b30d3b9a3f8ef240b55c838cad3"
