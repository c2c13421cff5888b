"""Every row of `rewards/*.jsonl` gets its verdict from the real pool, within the deadline that the pool sets.

A row: `id` (kind, then a number), `verifier`, `record`, `response`, `right` (the score due). Where they're needed:
`policy` (what was decided, where another verdict could be argued for), `options` (the verifier's settings), `sandbox`
(fields of `SandboxConfig`), `error` (the kind of error due, with `right` null: the record is unusable). A response that
is a list is put together from texts and [text, times] pairs. A response must never get an error out of a usable record.

After each row of a file `hostile_*.jsonl`, the same pool gives 200 honest verdicts: the golden cases of the row's own
verifier, the rest by the math verifier. `make test` tries two rows of each hostile kind, `pytest tests/cases` all.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.registry import verifier_class, verifier_path
from nemo_cascade.rewards.response import Response

FOLDER = Path(__file__).parent / "rewards"
HONEST = 200
OF_A_KIND = 2
# Until its sandbox's time is over: twenty seconds.
SLEEPS = {"K17-r-vfork-sleep"}


def rows():
    for path in sorted(FOLDER.glob("*.jsonl")):
        hostile, seen = path.name.startswith("hostile_"), Counter()
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            seen[kind := row["id"].partition("-")[0]] += 1
            left_out = hostile and (seen[kind] > OF_A_KIND or row["id"] in SLEEPS)
            marks = [pytest.mark.long] if left_out else []
            yield pytest.param(row, hostile, id=f"{path.stem}:{row['id']}", marks=marks)


def text_of(response):
    if isinstance(response, str):
        return response
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in response)


@pytest.fixture(scope="module")
def pools():
    """Return the pool for a row: one for each sandbox setting."""
    opened = {}

    def pool_for(row):
        key = json.dumps(row.get("sandbox"), sort_keys=True)
        if key not in opened:
            opened[key] = VerifierPool(RewardConfig(workers=2), sandbox=SandboxConfig(**row.get("sandbox", {})))
        return opened[key]

    yield pool_for
    for pool in opened.values():
        pool.close()


def wrong_honest_verdicts(pool, verifier):
    """Return what was wrong among the honest verdicts that follow an attack."""
    golden = verifier_class(verifier_path(verifier)).golden
    cases = [(verifier, g.record, g.text, g.score) for g in golden if g.error is None][:HONEST]
    cases += [("math", {"answer": f"{n % 7}"}, f"\\boxed{{{n % 5}}}", float(n % 7 == n % 5)) for n in range(HONEST)]
    cases = cases[:HONEST]
    for number, (name, record, text, _) in enumerate(cases):
        pool.submit(number, name, record, Response(text))
    return [(*cases[number], verdict) for number, verdict in pool.drain() if verdict.score != cases[number][3]]


@pytest.mark.parametrize(("row", "hostile"), rows())
def test_row_gets_its_verdict(pools, row, hostile):
    pool = pools(row)
    settings = row.get("options", {})
    pool.submit(row["id"], row["verifier"], row["record"], Response(text_of(row["response"])), settings)
    [(_, verdict)] = pool.drain()
    assert verdict.error == row.get("error"), verdict
    if verdict.score is not None:
        assert verdict.score == pytest.approx(row["right"], abs=1e-6), verdict
    if hostile:
        assert wrong_honest_verdicts(pool, row["verifier"]) == []


def test_ids_are_unique():
    ids = [parameter.id for parameter in rows()]
    assert len(ids) == len(set(ids))
