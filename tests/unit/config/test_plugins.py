"""A user's own verifier, named by where it is: its settings are checked like a shipped one's, and it judges."""

from dataclasses import asdict

import pytest

from nemo_cascade.config.checks.judges import verifiers_of
from nemo_cascade.config.checks.violations import violations
from nemo_cascade.config.plugins import completed_settings, load_plugin
from nemo_cascade.config.reading.compose import compose
from nemo_cascade.config.reading.strict import to_run_config
from nemo_cascade.config.schema import RewardConfig
from nemo_cascade.config.verifiers.kinds import settings_block
from nemo_cascade.errors import CascadeError, ConfigError
from nemo_cascade.rewards.pool.pool import VerifierPool
from nemo_cascade.rewards.response import Response

SOURCE = """
from nemo_cascade.rewards.verifier import Golden, VerifierError

def shortness(record, response, *, most: int = 40, strict: bool = False) -> float:
    if record.get("broken"):
        raise VerifierError("record", "no reference")
    return float(len(response.text) <= most) - strict

class Ends:
    golden = (Golden("so it is.", 1.0), Golden("so it is", 0.0))

    def __init__(self, sign: str = ".", weights: list[float] = [1.0]) -> None:
        self.sign, self.weights = sign, weights

    def verify(self, record, response) -> float:
        return self.weights[0] * response.text.endswith(self.sign)

def anything(record, response, **settings) -> float:
    return 1.0

class Wrong:
    golden = (Golden("yes", 1.0),)

    def verify(self, record, response) -> float:
        return 0.0
"""


KEY = "stages.math_rl.tasks.math.reward"


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "own_rewards.py"
    path.write_text(SOURCE)
    return path


def judged(name, texts, settings, record=None):
    with VerifierPool(RewardConfig(workers=1)) as pool:
        pool.self_test([name], settings)
        for number, text in enumerate(texts):
            pool.submit(number, name, record or {}, Response(text), settings)
        return [verdict for _, verdict in sorted(pool.drain(), key=lambda result: result[0])]


def test_a_function_judges_with_its_settings(place):
    name = f"{place}:shortness"
    assert [v.score for v in judged(name, ["short", "x" * 50], {"most": 40, "strict": False})] == [1.0, 0.0]
    assert [v.score for v in judged(name, ["short"], {"most": 4, "strict": True})] == [-1.0]
    assert judged(name, ["short"], {}, {"broken": 1})[0].error == "record"


def test_a_class_judges_and_its_golden_cases_are_run(place):
    assert [v.score for v in judged(f"{place}:Ends", ["a.", "a"], {"sign": ".", "weights": [2.0]})] == [2.0, 0.0]
    with pytest.raises(CascadeError, match="'yes' must get score 1, got score 0"):
        judged(f"{place}:Wrong", [], {})


def test_its_settings_are_completed_and_another_working_folder_finds_it(place, monkeypatch):
    monkeypatch.chdir(place.parent)
    config, _ = compose(["cascade=nano", f"{KEY}.kind=own_rewards.py:shortness", f"+{KEY}.most=7"], None)
    reward = config.stages["math_rl"].tasks["math"].reward
    assert asdict(reward) == {"kind": f"{place}:shortness", "most": 7, "strict": False}
    assert to_run_config(asdict(config)) == config
    assert violations(config) == []


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("mots=7", "did you mean"),
        ("most=short", f"{KEY}.most"),
        ("strict=3", f"{KEY}.strict"),
    ],
)
def test_its_settings_are_refused_by_key_before_anything_starts(place, setting, told):
    with pytest.raises(ConfigError) as refused:
        compose(["cascade=nano", f"{KEY}.kind={place}:shortness", f"+{KEY}.{setting}"], None)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{place}:nothing", "no such class or function; got: {place}:nothing"),
        ("{place}.py:shortness", "a plug-in's file isn't there"),
        ("no_such_module:check", "a plug-in can't be imported; got: no_such_module:check: ModuleNotFoundError"),
        ("{place}:anything", "settings by name, no * and no **"),
        ("{broken}:check", "a plug-in can't be imported; got: {broken}:check: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_key(place, name, told):
    broken = place.with_name("broken.py")
    broken.write_text("def check(")
    name, told = (text.format(place=place, broken=broken) for text in (name, told))
    with pytest.raises(ConfigError) as refused:
        compose(["cascade=nano", f"{KEY}.kind={name}"], None)
    assert f"{KEY}.kind: " in str(refused.value)
    assert told in str(refused.value)


def test_parts_of_a_mix_may_be_ones_own(place):
    parts = f"[{{reward: {{kind: '{place}:shortness', SETTING: 9}}}}, {{reward: {{kind: format}}, weight: 0.5}}]"
    mix = ["cascade=nano", f"{KEY}.kind=mix", f"+{KEY}.terms={parts}"]
    config, _ = compose([text.replace("SETTING", "most") for text in mix], None)
    assert violations(config) == []
    assert verifiers_of(config) >= {"mix", f"{place}:shortness", "format"}
    with pytest.raises(ConfigError, match="did you mean"):
        compose([text.replace("SETTING", "mots") for text in mix], None)


def test_the_same_file_is_imported_once(place):
    assert load_plugin(f"{place}:Ends") is load_plugin(f"{place}:Ends")
    assert load_plugin(f"{place}:Ends").__module__ == load_plugin(f"{place}:shortness").__module__
    assert settings_block(f"{place}:Ends")().weights == [1.0]


def test_a_setting_that_no_file_keeps_is_refused_though_it_fits(tmp_path):
    file = tmp_path / "own_pair.py"
    file.write_text("class Pair:\n    def __init__(self, ends: tuple[int, int] = (0, 1), names: list[str] = []): ...\n")
    with pytest.raises(ValueError, match=r"ends: Pair takes \(0, 1\), which no file keeps"):
        completed_settings(f"{file}:Pair", {}, 0)
    file.with_name("own_list.py").write_text(file.read_text().replace("tuple[int, int] = (0, 1)", "list[int] = [0, 1]"))
    kept = completed_settings(f"{file.with_name('own_list.py')}:Pair", {"names": ["a"]}, 0)
    assert kept == {"ends": [0, 1], "names": ["a"]}
