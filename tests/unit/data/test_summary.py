from html.parser import HTMLParser

import numpy as np

from nemo_cascade.data.sft.build import build_packed_store
from nemo_cascade.data.sft.summary import histograms
from tests.unit.data.conftest import conversation, sft_stage


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.text, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data.strip())


def test_histograms_count_every_sample_token_and_pack():
    lengths, times = np.array([5, 16, 17, 100]), np.array([1, 2, 0, 3])
    found = histograms(lengths, times, np.array([100, 95, 1, 5]), 100)
    assert {k: v for k, v in found["length_histogram"].items() if v} == {"<=16": 2, "<=32": 1, "<=128": 1}
    assert {k: v for k, v in found["token_histogram"].items() if v} == {"<=16": 37, "<=128": 300}
    assert {k: v for k, v in found["pack_histogram"].items() if v} == {"<=5 %": 2, "<=95 %": 1, "<=100 %": 1}


def test_page_shows_the_stores_figures_and_needs_nothing_else(tokenizer, write_jsonl, tmp_path):
    rows = [conversation(f"{i}+{i}", str(2 * i)) for i in range(50)]
    rows.append({"messages": [{"role": "user", "content": "<b>"}]})
    stage = sft_stage(write_jsonl(rows), max_bad_fraction=0.1, source={"domain": "<math>", "repeat": 2})
    store = build_packed_store(stage, tokenizer.folder, tmp_path / "c")
    text = (store.folder / "summary.html").read_text(encoding="utf-8")
    page = Page(text)
    stats = store.stats
    trained = stats["trained_tokens_per_epoch"] / stats["tokens_per_epoch"]
    for expected in (f"{100 * stats['fill']:.2f} %", f"{100 * trained:.2f} %", str(stats["packs"]), "<math>", "100"):
        assert expected in page.text, expected
    bars = [a["title"] for tag, a in page.tags if tag == "i" and "title" in a]
    counts = [int(title.rpartition(": ")[2]) for title in bars]
    assert sum(counts) == 50 + stats["tokens_per_epoch"] + stats["packs"]
    assert not any(name in a for _, a in page.tags for name in ("src", "href"))
