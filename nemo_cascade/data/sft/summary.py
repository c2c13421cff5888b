"""The summary page of a packed store: one self-contained HTML file, made of its statistics alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from nemo_cascade.types import Int64

SUMMARY = "summary.html"
_FILL_BINS = 20


def histograms(lengths: Int64, times: Int64, loads: Int64, seq_length: int) -> dict[str, Any]:
    """Count samples by length, and packs by how full they are.

    Args:
        lengths: [n], tokens of each sample.
        times: [n], how often each is seen in an epoch.
        loads: [packs], tokens of each pack, padding of documents included.
        seq_length: tokens that a pack can hold.
    """
    edges = [2**k for k in range(4, int(lengths.max()).bit_length() + 1)]
    bins = np.searchsorted(edges, lengths)
    names = [f"<={edge}" for edge in edges]
    full = np.minimum(loads * _FILL_BINS // (seq_length + 1), _FILL_BINS - 1)
    packs = np.bincount(full, minlength=_FILL_BINS)
    return {
        "length_histogram": {name: int((bins == i).sum()) for i, name in enumerate(names)},
        "token_histogram": {name: int((lengths * times)[bins == i].sum()) for i, name in enumerate(names)},
        "pack_histogram": {f"<={(i + 1) * 100 // _FILL_BINS} %": int(count) for i, count in enumerate(packs)},
    }


def summary_page(stats: Mapping[str, Any]) -> str:
    """Render the page."""
    environment = Environment(
        loader=PackageLoader("nemo_cascade.data.sft", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(amount=_amount, percent=_percent)
    rules = stats["rules"]
    least = -(-stats["tokens_per_epoch"] // rules["seq_length"])
    charts = [
        ("samples by length, tokens", _bars(stats["length_histogram"])),
        ("tokens of an epoch by length of their sample", _bars(stats["token_histogram"])),
        ("packs by how full they are", _bars(stats["pack_histogram"])),
    ]
    dropped = {
        "longer than seq_length": stats["dropped_overlong"],
        "cut at a turn to fit": stats["cut_at_turn"],
        "without an assistant turn": stats["dropped_untrainable"],
        "repeat of an earlier sample": stats["dropped_duplicates"],
        "holds an evaluation prompt": stats["dropped_contaminated"],
    }
    page = environment.get_template("summary.html.j2")
    return page.render(stats=stats, rules=rules, least=least, charts=charts, dropped=dropped)


def _bars(counts: Mapping[str, int]) -> Sequence[tuple[str, int, float]]:
    """Return label, count and height (share of the highest) of each bar, from the first that isn't empty."""
    kept = list(counts.items())
    while kept and kept[0][1] == 0:
        kept.pop(0)
    most = max(counts.values(), default=0) or 1
    return [(label, count, count / most) for label, count in kept]


def _amount(value: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 10 * limit:
            return f"{value / limit:.4g} {unit}"
    return f"{value:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
