"""Rows that people reported elsewhere, and their like: trained as they are meant, or refused by file and line.

`data/rows.jsonl` holds one case a line: the kind of fault, how the row is used (sft, pairs, prompts), the row as its
line stands in a file, and what must come of it: `refused` (a part of the reason), `trained` (the trained stretches),
`text` (a part of the whole), `absent` (no part of it).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from nemo_cascade.config.stages.pairs import PairDataConfig
from nemo_cascade.config.stages.tasks import TaskConfig
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.pairs import build_pair_stores
from nemo_cascade.data.prompts.prompt_sets import load_prompts
from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.errors import DataError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.rewards.records import record_problem
from tests.unit.data.conftest import conversation, sft_stage

CASES = [json.loads(line) for line in (Path(__file__).parent / "data" / "rows.jsonl").read_text().splitlines()]
PLAIN = """{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Tokenizer folders by the name of their template; `foreign` has a template of its own."""
    root = tmp_path_factory.mktemp("tokenizers")
    train_nano_tokenizer(["user assistant system You are a helpful and harmless assistant."] * 5, root / "nano")
    (root / "foreign.jinja").write_text(PLAIN)
    named = {name: install(root / "nano", name, root) for name in ("cascade1", "cascade2", "nano3", "chatml")}
    return named | {"foreign": install(root / "nano", str(root / "foreign.jinja"), root)}


def refusal_of(load):
    """Run it twice: with nothing allowed to be bad, for the error; the rows are the error's to name."""
    with pytest.raises(DataError) as raised:
        load(0.0)
    return str(raised.value)


def of_sft(case, path, folder, tmp_path):
    source = {name: case[name] for name in ("schema", "columns") if name in case}

    def load(most_bad):
        stage = sft_stage(path, seq_length=2048, source=source, max_bad_fraction=most_bad)
        return build_packed_store(stage, folder, tmp_path / "cache")

    def written(store):
        documents = [store.document(i) for i in range(len(store.samples))]
        tokenizer = load_tokenizer(folder)
        marks = [np.append(0, d.loss_mask[:-1]) for d in documents]  # 1 where the token itself is trained
        stretches = [
            np.split(d.input_ids, np.flatnonzero(np.diff(m)) + 1) for d, m in zip(documents, marks, strict=True)
        ]
        trained = [tokenizer.decode(s[i]) for s in stretches for i in range(1, len(s), 2)]
        return trained, [tokenizer.decode(d.input_ids) for d in documents]

    return load, written


def of_pairs(case, path, folder, tmp_path):
    holdout = tmp_path / "held.jsonl"
    row = {"messages": [{"role": "user", "content": "held"}], "chosen": "1", "rejected": "2"}
    kept = {"prompt": "held", "response_1": "1", "response_2": "2", "preference_strength": 1, "good": "1", "bad": "2"}
    kept |= {"context": "held", "response1": "1", "response2": "2", "overall_preference": 1}
    holdout.write_text(json.dumps({**row, **kept}) + "\n")
    source = {name: case[name] for name in ("schema", "columns") if name in case}

    def load(most_bad):
        data = PairDataConfig(path=path, holdout_path=str(holdout), max_bad_fraction=most_bad, **source)
        return build_pair_stores(data, 512, folder, tmp_path / "cache")[0]

    def written(store):
        decode = load_tokenizer(folder).decode
        return [], [decode(d.input_ids) for pair in range(len(store)) for d in store.documents(pair)]

    return load, written


def of_prompts(case, path, folder, tmp_path):
    chosen = {name: case[name] for name in ("schema", "columns", "mode") if name in case}
    tokenizer = load_tokenizer(folder)

    def load(most_bad):
        reward = {"kind": case.get("verifier", "math")}
        task = TaskConfig(path=path, domain="d", reward=reward, max_bad_fraction=most_bad, **chosen)
        return load_prompts({"d": task}, tokenizer, 512, tmp_path, record_problem)

    return load, lambda prompts: ([], [tokenizer.decode(p.token_ids) for p in prompts.prompts])


USES = {"sft": of_sft, "pairs": of_pairs, "prompts": of_prompts}


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case['kind']}" for number, case in enumerate(CASES, 1)])
def test_row_is_trained_as_it_is_meant_or_refused_by_file_and_line(case, folders, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + case["row"] + "\n")
    load, written = USES[case["as"]](case, str(path), folders[case["template"]], tmp_path)
    if "refused" in case:
        told = refusal_of(load)
        assert f"{path}:2: " in told
        assert case["refused"] in told
        return
    trained, texts = written(load(0.0))
    assert trained == case.get("trained", trained)
    if "text" in case:
        assert case["text"] in texts[0]
    if "absent" in case:
        assert case["absent"] not in texts[0]


def test_bad_rows_within_the_allowed_share_are_left_out_and_listed(folders, tmp_path):
    bad = [case["row"] for case in CASES if case["as"] == "sft" and "refused" in case and "columns" not in case]
    path, good = tmp_path / "rows.jsonl", [json.dumps(conversation(f"{i}+1", str(i + 1))) for i in range(len(bad))]
    path.write_text("".join(f"{line}\n" for pair in zip(good, bad, strict=True) for line in pair))
    store = build_packed_store(sft_stage(str(path), max_bad_fraction=0.5), folders["cascade1"], tmp_path / "cache")
    # What only another template refuses is trained on here.
    listed = [json.loads(line) for line in (store.folder / "quarantine.jsonl").read_text().splitlines()]
    assert store.stats["rows_read"] == 2 * len(bad)
    assert store.stats["samples"] + len(listed) == 2 * len(bad)
    assert {row["file"] for row in listed} == {str(path)}
    assert all(row["line"] % 2 == 0 for row in listed)
    assert len(listed) > 0.9 * len(bad)
