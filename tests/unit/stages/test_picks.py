"""A suite that picks one of several patches: scripted answers, the real validation in the sandbox."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.pick import PickConfig
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.config.schema import SuiteConfig
from nemo_cascade.config.verifiers.repositories import ExecuteSettings
from nemo_cascade.data.chat.encode import load_tokenizer, response_text
from nemo_cascade.data.prompts.swe_rows import repair_messages
from nemo_cascade.errors import RewardError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.rewards.registry import build_verifier, verifier_path
from nemo_cascade.rewards.response import Response
from nemo_cascade.rewards.verifier import VerifierError
from nemo_cascade.stages.evaluate import score_suites
from nemo_cascade.types import FinishReason, Verdict, first_turn

FILES = {
    "calc.py": "def half(x):\n    return x // 2\n",
    "test_calc.py": "from calc import half\ndef test_even():\n    assert half(4) == 2\n",
}
PROBLEM = "half(3) is 1, not 1.5."
ROW = {
    "messages": repair_messages(PROBLEM, FILES),
    "problem": PROBLEM,
    "files": FILES,
    "test_files": {"test_hidden.py": "from calc import half\ndef test_odd():\n    assert half(5) == 2.5\n"},
    "fail_to_pass": ["test_hidden.py::test_odd"],
}
PATCHES = ["x // 3", "1.5", "x / 2", "x / 2  # exactly", "x - 1", "x"]
SHOWS = "from calc import half\ndef test_half():\n    assert half(3) == 1.5\n"
TESTS = [SHOWS, "from calc import half\ndef test_half():\n    assert half(2) == 1\n", SHOWS, None]


def edit(line):
    return f"### calc.py\n<<<<<<< SEARCH\n    return x // 2\n=======\n    return {line}\n>>>>>>> REPLACE\n"


class Scripted:
    """Engines that say what is scripted, and judges that are the real verifiers in this process."""

    def __init__(self, folder, broken=()):
        self.tokenizer, self.broken, self._waiting, self.judged = load_tokenizer(folder), broken, [], []
        self.asked = {}

    def judges(self, model, group_size, reward_model):
        return self

    def environments(self, model):
        return SimpleNamespace(forget=lambda places: None)

    def self_test(self, names, settings):
        assert [build_verifier(verifier_path(name), settings) for name in names]

    def generate(self, questions, sampling, seed):
        for question in questions:
            writes = "Write one test" in self.tokenizer.decode(question.token_ids)
            yield [self._says(question, sample, writes) for sample in question.samples]

    def _says(self, question, sample, writes):
        text = edit(PATCHES[sample])
        if writes:
            text = "I can't." if TESTS[sample] is None else f"```python\n{TESTS[sample]}```"
        ids = np.array([*self.tokenizer.encode(text), self.tokenizer.end_id], np.int32)
        logprobs = np.zeros(ids.size, np.float32)
        return first_turn(question.task_id, sample, question.token_ids, ids, logprobs, FinishReason.STOP, 1)

    def submit(self, samples):
        self._waiting += samples

    def drain(self):
        waiting, self._waiting = self._waiting, []
        self.judged += [(task.verifier, answer.sample) for task, answer in waiting]
        return [(answer.place, self._verdict(task, answer)) for task, answer in waiting]

    def _verdict(self, task, answer):
        if task.verifier in self.broken:
            return Verdict(None, "infrastructure", "broken")
        text = response_text(self.tokenizer, answer.response_ids, answer.context_ids)
        try:
            return Verdict(
                float(build_verifier(verifier_path(task.verifier), task.settings).verify(task.record, Response(text)))
            )
        except VerifierError as error:
            return Verdict(None, error.kind, error.detail)


@pytest.fixture
def scored(tmp_path):
    train_nano_tokenizer((), tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    length = "rollout.max_model_len=4096"
    config = compose(["cascade=nano", f"data_dir={tmp_path}", "logging.progress=false", length])[0]

    def of(tests=4, broken=()):
        pick = PickConfig(reproduction_tests=tests, sampling=SamplingConfig(max_tokens=256))
        suite = SuiteConfig(
            path=str(tmp_path / "rows.jsonl"),
            reward=ExecuteSettings(test_s=5.0),
            num_prompts=1,
            samples_per_prompt=len(PATCHES),
            mode="no_think",
            sampling=SamplingConfig(max_tokens=256),
            pick=pick,
        )
        by = Scripted(tmp_path / "model", broken)
        return score_suites(config, by, by, tmp_path / "model", "x", {"swe": suite}, {}), by

    return of


def test_the_picked_patch_alone_is_scored_and_validation_sees_no_hidden_test(scored):
    scores, by = scored()
    assert scores.samples["swe"] == {"rows/1": [1.0]}
    told = scores.details["swe"]
    assert told["unpicked_score_mean"] == pytest.approx(2 / 6)
    assert (told["unpicked_score_best"], told["reproduction_tests_mean"]) == (1.0, 2.0)
    # Two patches say the same: they are validated once, by the tests of the repository and by two written ones.
    assert [by.judged.count(("swe_regression", sample)) for sample in range(6)] == [1, 1, 1, 0, 1, 1]
    assert [by.judged.count(("swe_reproduction", sample)) for sample in range(6)] == [2, 2, 2, 0, 2, 2]


def test_without_reproduction_tests_the_vote_decides_among_what_breaks_nothing(scored):
    scores, by = scored(tests=0)
    assert scores.samples["swe"] == {"rows/1": [1.0]}  # two votes; x - 1 and others break test_even
    assert not any(verifier == "swe_reproduction" for verifier, _ in by.judged)


def test_validations_that_fail_stop_the_run_like_other_verdicts(scored):
    with pytest.raises(RewardError, match="validating the swe suite"):
        scored(broken=("swe_regression",))


def test_a_suite_that_nothing_can_be_picked_from_is_refused():
    def told(*changes):
        return [str(problem) for problem in violations(compose(["cascade=nano", *changes])[0])]

    suite, fits = "evaluation.suites.swe", "{reproduction_tests: 4, sampling: {max_tokens: 40}}"
    assert told(f"+{suite}.pick={fits}") == []
    (single,) = told(f"+{suite}.pick={fits}", f"{suite}.samples_per_prompt=1")
    assert "one patch is no choice" in single
    assert f"mend: {suite}.samples_per_prompt=8" in single
    (greedy,) = told(f"+{suite}.pick={fits}", f"+{suite}.pick.sampling.temperature=0")
    assert "greedy tests are all the same" in greedy
    (long,) = told(f"+{suite}.pick={fits}", f"{suite}.pick.sampling.max_tokens=500")
    assert f"{suite}.pick.sampling.max_tokens=500" in long
    (other,) = told(f"+evaluation.suites.math.pick={fits}")
    assert "only patches can be picked from" in other
    (short,) = told(f"+{suite}.pick={fits}", "reward.deadlines.swe_regression=30")
    assert f"{suite}.pick.regression of swe_regression: 40 s" in short
