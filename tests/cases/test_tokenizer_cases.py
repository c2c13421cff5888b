"""Tokenizers that change a text, or a stretch of it: told by their cause."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import DataError
from tests.unit.data.conftest import conversation


def changed(nano, folder, change):
    """Copy the tokenizer with its facts changed."""
    shutil.copytree(nano, folder)
    facts = json.loads((folder / "tokenizer.json").read_text())
    change(facts)
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    return folder


MARKED = """{%- for m in messages %}
{{- bos_token + '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ bos_token + '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.mark.parametrize("template", ["cascade1", "foreign"])
def test_padding_and_truncation_of_the_file_take_no_part(nano, tmp_path, template):
    def pad(facts):
        facts["padding"] = {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<|endoftext|>",
        }  # fmt: skip
        facts["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}

    folder = changed(nano, tmp_path / "padded", pad)
    (tmp_path / "f.jinja").write_text(MARKED.replace("bos_token + ", ""))
    wanted = str(tmp_path / "f.jinja") if template == "foreign" else template
    tokenizer = load_tokenizer(install(folder, wanted, tmp_path / "m"))
    plain = load_tokenizer(install(nano, wanted, tmp_path / "m"))
    assert tokenizer.encode("user and system").tolist() == plain.encode("user and system").tolist()


def test_special_tokens_are_named_where_transformers_reads_them(nano, tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "f.jinja").write_text(MARKED)
    for number, change in enumerate((
        {"special_tokens_map.json": {"bos_token": "<|endoftext|>"}},
        {"special_tokens_map.json": {"bos_token": {"content": "<|endoftext|>", "lstrip": False, "rstrip": False,
                                                   "normalized": False, "single_word": False}}},
        {"tokenizer_config.json": {"bos_token": "<|endoftext|>"}},
        {"tokenizer_config.json": {"bos_token": "<|im_end|>"},
         "special_tokens_map.json": {"bos_token": "<|endoftext|>"}},
    )):  # fmt: skip
        folder = tmp_path / str(number)
        shutil.copytree(nano, folder)
        for name, facts in change.items():
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | facts))
        tokenizer = load_tokenizer(install(folder, str(tmp_path / "f.jinja"), tmp_path / "m"))
        messages = conversation()["messages"]
        expected = AutoTokenizer.from_pretrained(tokenizer.folder).apply_chat_template(messages, tokenize=False)
        assert expected.startswith("<|endoftext|><|im_start|>user")
        assert "".join(s.text for s in tokenizer.template.render(messages)) == expected.rstrip("\n")


def sentencepiece_like(folder, nano, prefix):
    """A tokenizer as Llama 2's fast one is: spaces become a mark, and one is put in front of every text."""
    letters = [chr(i) for i in range(33, 127)] + ["▁", "\n", "é", "Ü", "²", "≤", "½", "…", "“", "”", "\t", "\r"]
    specials = ["<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    vocab = {token: i for i, token in enumerate([*specials, *bytes_, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    steps = [normalizers.Replace(" ", "▁")]
    if prefix == "normalizer":
        steps.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    last = [decoders.Strip(" ", 1, 0)] if prefix != "none" else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    if prefix == "metaspace":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
        ])  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in specials])
    shutil.copytree(nano, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("prefix", ["normalizer", "metaspace"])
def test_tokenizer_that_puts_a_space_in_front_of_every_stretch_is_refused(nano, tmp_path, prefix):
    folder = sentencepiece_like(tmp_path / "legacy", nano, prefix)
    with pytest.raises(DataError, match="adds a space in front of every text"):
        load_tokenizer(install(folder, "chatml", tmp_path / "m"))


def test_sentencepiece_like_tokenizer_without_the_space_is_taken(nano, tmp_path):
    tokenizer = load_tokenizer(install(sentencepiece_like(tmp_path / "new", nano, "none"), "chatml", tmp_path / "m"))
    assert tokenizer.decode(tokenizer.encode("It is 4.")) == "It is 4."


@pytest.mark.parametrize(
    "normalizer",
    [{"type": "Lowercase"}, {"type": "NFKC"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": True,
     "strip_right": True}, {"type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n"}],
)  # fmt: skip
def test_normalizer_that_changes_texts_is_told_as_such(nano, tmp_path, normalizer):
    folder = changed(nano, tmp_path / "t", lambda facts: facts.update(normalizer=normalizer))
    with pytest.raises(DataError, match=r"doesn't give back the text that it encodes; its normalizer changes it"):
        load_tokenizer(folder)


@pytest.mark.parametrize("token", ["<think>", "<|im_start|>", "<|im_end|>"])
@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_added_token_that_swallows_spaces_is_named(nano, tmp_path, token, side):
    def strip(facts):
        next(t for t in facts["added_tokens"] if t["content"] == token)[side] = True

    if token != "<|im_end|>" and side == "lstrip":
        pytest.skip("nothing that is written stands in front of it")
    with pytest.raises(DataError, match="swallow the spaces beside them") as raised:
        load_tokenizer(changed(nano, tmp_path / "t", strip))
    assert token in str(raised.value)


def test_first_texts_are_proven_in_bounded_pieces(nano):
    tokenizer, longest = load_tokenizer(nano), []
    slowly = tokenizer._encode_slowly
    tokenizer._encode_slowly = lambda texts: longest.append(sum(map(len, texts))) or slowly(texts)
    found = tokenizer.encode_many(["user and system " * 60_000] * 30)
    assert len(found) == 30
    assert sum(longest) <= 1 << 18
    assert np.array_equal(found[0], tokenizer.encode("user and system " * 60_000))
