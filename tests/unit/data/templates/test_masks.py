"""The mask equals an independent writer's, token by token: random conversations x templates x tokenizers."""

import json
from functools import cache

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

from nemo_cascade.data.chat import encode
from nemo_cascade.data.chat.templates import NAMED, NO_REPLY
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from tests.support.slow_chat_writer import (
    ANSWERS,
    TEXTS,
    adapted,
    random_row,
    thought_and_answer,
    written,
    written_whole,
)
from tests.support.smol_tokenizer import smol_tokenizer

ROWS = 1000


@pytest.fixture(scope="module")
def bare_tokenizers(tmp_path_factory):
    """Folders of three kinds of tokenizer: nano's byte-level BPE, SmolLM2's, BPE of words with a fallback to bytes."""
    nano, smol, words = (tmp_path_factory.mktemp(name) for name in ("nano", "smol", "words"))
    smol_tokenizer(smol)
    train_nano_tokenizer([*TEXTS, *ANSWERS] * 3, nano)
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=fallback, show_progress=False)
    tokenizer.train_from_iterator(["the▁user▁said▁It▁is▁four", "assistant▁system▁def▁return"] * 3, trainer)
    bare = json.loads(tokenizer.to_str())
    bare["added_tokens"] = []  # the bytes are plain vocabulary
    tokenizer = Tokenizer.from_str(json.dumps(bare))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.save(str(words / "tokenizer.json"))
    folders = {"nano": nano, "smollm2": smol, "words": words}
    control = sorted({token for template in NAMED.values() for token in template.control})
    for folder in folders.values():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
        tokenizer.save(str(folder / "tokenizer.json"))
    return folders


@cache
def rows_and_samples(form):
    """Random rows, and what the slow writer makes of each."""
    rows = [adapted(random_row(seed), form) for seed in range(ROWS)]
    return [(row, written(without_empty_system(row), form)) for row in rows]


def without_empty_system(row):
    """A training row whose system turn says nothing has none."""
    first = row["messages"][0]
    return {**row, "messages": row["messages"][first["role"] == "system" and not first["content"].strip() :]}


def says_nothing(row):
    return any(
        m["role"] not in ("system", "tool") and not m.get("tool_calls") and not thought_and_answer(m)[1].strip()
        for m in row["messages"]
    )


def pairs(segments):
    return [[s.text, s.trained] for s in segments]


@pytest.mark.parametrize("form", NAMED)
def test_text_and_marks_of_every_conversation_are_the_slow_writers(form):
    template, whole, empty, several = NAMED[form], 0, 0, 0
    for row, expected in rows_and_samples(form):
        assert pairs(template.render(row["messages"], tools=row.get("tools"))) == written_whole(row, form), row
        samples, problems = template.samples(row)
        if says_nothing(row):
            empty += 1
            assert not expected or any("has no content" in p for p in problems), row
        elif not expected:
            assert problems == [NO_REPLY], row
        else:
            assert [pairs(s) for s in samples] == expected, (row, problems)
            whole, several = whole + 1, several + (len(expected) > 1)
    assert whole > 500
    assert empty > 100
    assert (several > 100) == (form in ("cascade2", "nano3", "nano_v2"))


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize("name", ["nano", "smollm2", "words"])
def test_tokens_and_mask_are_the_slow_references(name, form, bare_tokenizers, tmp_path):
    tokenizer = encode.load_tokenizer(install(bare_tokenizers[name], form, tmp_path))
    slow = Tokenizer.from_file(str(bare_tokenizers[name] / "tokenizer.json"))
    rows = [row for row, _ in rows_and_samples(form)]
    encoded = encode.encode_segments(
        tokenizer, [tokenizer.template.render(r["messages"], tools=r.get("tools")) for r in rows]
    )
    spelled = token_bytes(slow)
    for number, (row, (ids, mask)) in enumerate(zip(rows, encoded, strict=True)):
        expected_ids, expected_mask = [], []
        for text, trained in written_whole(row, form):
            piece = slow.encode(text, add_special_tokens=False).ids
            expected_ids += piece
            expected_mask += [int(trained)] * len(piece)
        assert ids.tolist() == expected_ids, row
        assert mask.tolist() == expected_mask, row
        if number % 5 == 0:  # and the tokens spell the text, byte for byte
            spoken = b"".join(spelled[i] for i in expected_ids)
            assert spoken == "".join(text for text, _ in written_whole(row, form)).encode(), row


def token_bytes(tokenizer):
    """Bytes of every token, from the vocabulary alone."""
    vocabulary = json.loads(tokenizer.to_str())
    added = {t["id"]: t["content"].encode() for t in vocabulary["added_tokens"]}
    # Byte-level vocabularies write byte b as a printable character.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}

    def spell(token):
        if not vocabulary["model"]["byte_fallback"]:
            return bytes(byte_of[c] for c in token)
        is_byte = token.startswith("<0x") and len(token) == 6
        return bytes([int(token[3:5], 16)]) if is_byte else token.replace("▁", " ").encode()

    return {i: spell(t) for t, i in vocabulary["model"]["vocab"].items() if i not in added} | added


@pytest.mark.parametrize("form", NAMED)
def test_prompt_is_an_exact_prefix_of_the_sample_that_it_leads_to(form, bare_tokenizers, tmp_path):
    tokenizer, checked = encode.load_tokenizer(install(bare_tokenizers["nano"], form, tmp_path)), 0
    for seed in range(120):
        row = adapted(random_row(seed), form)
        for end in (i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"):
            so_far = {**row, "messages": row["messages"][: end + 1]}
            mode = "think" if thought_and_answer(row["messages"][end])[0] is not None else "no_think"
            prompt = tokenizer.template.render(row["messages"][:end], mode, row.get("tools"))
            ids = encode.encode_segments(tokenizer, [prompt])[0][0]
            sample = tokenizer.template.render(so_far["messages"], tools=row.get("tools"))
            whole, mask = encode.encode_segments(tokenizer, [sample])[0]
            assert np.array_equal(ids, whole[: len(ids)]), (row, end)
            if row["messages"][end].get("trained", True):
                assert mask[len(ids) :].all(), "what follows the prompt is what is learned"
                checked += 1
    assert checked > 150


@pytest.mark.parametrize("form", NAMED)
def test_hf_template_writes_the_same_text(form):
    from transformers.utils.chat_template_utils import render_jinja_template

    def write(row, **settings):
        messages = [{k: v for k, v in m.items() if k != "trained"} for m in row["messages"]]
        rendered, _ = render_jinja_template(
            [messages], tools=row.get("tools"), chat_template=NAMED[form].jinja, **settings
        )
        return rendered[0]

    for seed in range(200):
        row = adapted(random_row(seed, explicit=True), form)
        assert write(row) == "".join(s.text for s in NAMED[form].render(row["messages"], tools=row.get("tools")))
        last = max(i for i, m in enumerate(row["messages"]) if m["role"] == "user")
        asked = {**row, "messages": row["messages"][: last + 1]}
        mode = asked["messages"][-1]["mode"]
        prompt = "".join(s.text for s in NAMED[form].render(asked["messages"], mode, row.get("tools")))
        assert write(asked, add_generation_prompt=True, enable_thinking=mode == "think") == prompt
