"""RL and evaluation prompts looked for in 200,000 conversations: what is found, rows per second, memory."""

import json
import random
import resource
import time

import pytest

from nemo_cascade.config.hygiene import HygieneConfig
from nemo_cascade.data.hygiene.exclusions import PromptRows, Search, find_prompts
from tests.support.planted import plant, vary

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ROWS, FILES, PLANTED = 200_000, 8, 200
# The released set of math RL has 14,476 prompts (arXiv 2512.13607, its data card); a suite about 500.
SETS = {"rl": 14_476, "suite0": 500, "suite1": 500, "suite2": 500}
RESPONSE_CHARACTERS = 4_500  # of 1,100 tokens, the paper's mean


def test_planted_prompts_among_200_000_rows(tmp_path):
    rng = random.Random(1)
    pool = plant(ROWS // 8, ["networkx", "scipy", "numpy"], prompts=1, share=0.0).rows
    words = sorted({word for text in pool[:1000] for word in text.split() if word.isalpha()})
    # Of words drawn anew: sentences that recur in more than eight prompts would be their template.
    prompts = [" ".join(rng.choices(words, k=rng.randint(25, 80))) for _ in range(sum(SETS.values()))]
    begin, sets = 0, {}
    for name, count in SETS.items():
        rows = ({"messages": [{"role": "user", "content": text}]} for text in prompts[begin : begin + count])
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets[name], begin = PromptRows(str(tmp_path / f"{name}.jsonl")), begin + count
    places = {place: rng.randrange(SETS["rl"]) for place in rng.sample(range(ROWS), PLANTED)}
    (tmp_path / "sft").mkdir()
    for file in range(FILES):
        with (tmp_path / "sft" / f"{file}.jsonl").open("w") as stream:
            for number in range(file * ROWS // FILES, (file + 1) * ROWS // FILES):
                asked = f"{number} {pool[number % len(pool)]}"
                if number in places:
                    asked = vary(prompts[places[number]], "three words", rng, words)
                answer = (pool[(7 * number) % len(pool)] * 20)[:RESPONSE_CHARACTERS]
                turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
                stream.write(json.dumps({"messages": turns}) + "\n")
    start = time.monotonic()
    ((rl, *suites),) = find_prompts([Search(tuple(sets.values()), PromptRows(str(tmp_path / "sft")))], HygieneConfig())
    seconds = time.monotonic() - start
    found = {(hit.where.rpartition("/")[2], hit.prompt.rpartition(":")[2]) for hit in rl.found}
    each = ROWS // FILES
    wanted = {(f"{place // each}.jsonl:{place % each + 1}", str(prompt + 1)) for place, prompt in places.items()}
    size = sum(path.stat().st_size for path in (tmp_path / "sft").iterdir())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"\n{ROWS:,} rows ({size / 1e9:.2f} GB), {len(sets)} sets searched for: {seconds:.1f} s,"
        f" {ROWS / seconds:,.0f} rows/s on 2 cores; largest process {peak:,.0f} MiB"
    )
    print(f"  {PLANTED} RL prompts planted with three words changed: found {len(found & wanted)}")
    print(f"  rows found beside them: {len(found - wanted)}; in suites: {sum(len(s.found) for s in suites)}")
    assert len(found & wanted) >= 0.97 * PLANTED
