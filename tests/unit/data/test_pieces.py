import random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nemo_cascade.data.chat import pieces
from nemo_cascade.data.chat.pieces import piece_encoder
from tests.support.real_text import functions

ADDED = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|im_start|>x"]
SPLITS = {
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "digits": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    **{
        name: [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        for name, pattern in {"qwen": pieces._QWEN, "llama3": pieces._LLAMA3, "tekken": pieces._TEKKEN}.items()
    },
}
PARTS = [
    *ADDED, *"'sStTdDlLmM .,!?/\\-_<>|#()[]{}\"", "'ll", "'RE", "'Ve", " ", "  ", "   ", "\n", "\n\n", "\r\n",
    "\t", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\x00", "\x85", "\u00a0", "\u2028", "\u3000", "\u200b", "x", "Xy",
    "abc", "ABCd", "1", "23", "4567", "é", "e\u0301", "ß", "ſ", "K", "日本", "١", "²", "Ⅷ", "—", "’", "“", "😀",
    "👩\u200d💻", "a b", " a", " A", " 1", " '", "don't", "I'M", "İ", "ǅ", "ʰ",
    " слово", " é", " 日本", " 한국", " ١", " \u0301", " \u1100\u1161",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts():
    real = [f"{f.signature}\n{f.docstring}\n{f.source}" for _, f in zip(range(60), functions("rich"), strict=False)]
    rng = random.Random(0)
    return real, ["".join(rng.choices(PARTS, k=rng.randint(0, 30))) for _ in range(4000)]


def trained(split, texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if split == "qwen" else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[split]) if len(SPLITS[split]) > 1 else SPLITS[split][0]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, special_tokens=ADDED, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.mark.parametrize("split", SPLITS)
def test_ids_are_the_tokenizers_own_for_real_and_for_odd_text(split, texts):
    real, odd = texts
    tokenizer = trained(split, [*real, *odd[:500]])
    encoder = piece_encoder(tokenizer)
    assert encoder is not None
    for _ in range(2):  # a second time out of the table
        for text in [*real, *odd]:
            assert encoder.ids(text).tolist() == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)


def test_table_stays_bounded(texts, monkeypatch):
    monkeypatch.setattr(pieces, "_MOST_PIECES", 50)
    tokenizer = trained("gpt2", texts[0])
    encoder = piece_encoder(tokenizer)
    for text in texts[0][:10]:
        assert encoder.ids(text).tolist() == tokenizer.encode(text).ids
        assert len(encoder) <= 50


def test_tokenizer_whose_pieces_are_not_known_is_left_alone(texts):
    unknown = pre_tokenizers.Split(Regex(r"\w+|\W"), "isolated")
    for change in (
        {"pre_tokenizer": pre_tokenizers.Sequence([unknown, pre_tokenizers.ByteLevel(False, use_regex=False)])},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.Metaspace()},
        {"normalizer": normalizers.Lowercase()},
    ):
        tokenizer = trained("gpt2", texts[0][:5])
        for name, value in change.items():
            setattr(tokenizer, name, value)
        assert piece_encoder(tokenizer) is None
