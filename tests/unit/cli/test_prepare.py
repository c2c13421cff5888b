"""`nemo-cascade prepare`: packed data that a run finds again, and samples shown as the model will see them."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from nemo_cascade.cli import main as command
from nemo_cascade.cli.screen import samples, terminal
from nemo_cascade.data.chat.tokenizer import load_tokenizer

THOUGHTFUL = {"role": "assistant", "content": "<think>\nadd\n</think>\n4 漢"}
ROWS = [
    {"messages": [{"role": "user", "content": "2+2 [b]"}, THOUGHTFUL]},
    {"messages": [{"role": "user", "content": "hi"}]},
    {"messages": [{"role": "user", "content": "3+3"}, {"role": "assistant", "content": "6"}]},
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """Where nano's data is."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "data").symlink_to(data_dir)
    return folder


@pytest.fixture
def cli(runs, capsys, write_rows, monkeypatch):
    def run(*arguments):
        sources = f"stages.sft1.data.sources=[{{path:'{write_rows}',domain:mine}}]"
        code = command.main(["prepare", "cascade=nano", f"runs_dir={runs}", sources, *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def write_rows(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_samples_are_shown_whole_with_trained_tokens_marked(cli, write_rows):
    code, told, _ = cli("stage=sft1", "--show", "3")
    assert code == 0
    assert "template cascade1" in told
    system = "<|im_start|>system\nYou are a helpful and harmless assistant.<|im_end|>\n"
    assert f"{system}<|im_start|>user\n2+2 [b] /think<|im_end|>\n<|im_start|>assistant\n" in told
    assert re.findall(r"⟦(.*?)⟧", told, re.DOTALL)[1:] == ["<think>\nadd\n</think>\n4 漢<|im_end|>", "6<|im_end|>"]
    assert f"{write_rows}:2  bad row: no assistant turn" in told


def test_trained_tokens_have_a_colour_of_their_own(cli, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(samples, "out", Console(file=screen, force_terminal=True, color_system="standard", width=200))
    monkeypatch.setattr(terminal, "out", samples.out)
    assert cli("stage=sft1", "--show", "1", "model.chat_template=cascade2")[0] == 0
    coloured = "".join(re.findall(r"\x1b\[30;(?:42|102)m(.*?)\x1b\[0m", screen.getvalue(), re.DOTALL))
    assert coloured == "add</think>4 漢<|im_end|>", "rich writes the ends of lines without a colour"


def test_prompts_of_an_rl_stage_are_shown_up_to_the_reply(cli):
    code, told, _ = cli("stage=math_rl", "--show", "2")
    assert code == 0
    assert told.count("<|im_start|>assistant\n") == 2
    assert told.count("0 trained") == 2


def test_packs_are_built_and_summed_up_where_a_run_finds_them(cli, runs):
    code, told, _ = cli("stage=sft1", "stages.sft1.data.max_bad_fraction=0.5")
    assert code == 0
    assert re.search(r"mine +2 +2 ", told)
    assert "of 3 rows dropped: 1 untrainable" in told
    page = re.search(r"page: (.*)", told)[1]
    assert page.startswith(f"{runs}/data/tokenised/")
    quarantine = re.search(r"bad rows: (.*)", told)[1]
    assert json.loads(Path(quarantine).read_text())["line"] == 2
    assert load_tokenizer(runs / "data" / "nano" / "tokenizer").template.name == "cascade1"
    assert not (runs / "nano").exists(), "no run was begun"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["stage=sft9"], "no such stage; got: sft9; allowed: sft1, sft2, "),
        (["--show", "1"], "--show takes a number of samples, and one stage=NAME"),
        (["stage=sft1", "--show", "0"], "--show takes a number of samples"),
        (["stage=sft1"], "1 of 3 samples can't be trained on"),
        (["stage=sft1", "model.chat_template=alpaca"], "no such chat template; got: model.chat_template=alpaca"),
    ],
)
def test_what_cannot_be_prepared_is_refused(cli, arguments, complaint):
    code, _, told = cli(*arguments)
    assert code == command.REFUSED
    assert complaint in " ".join(told.split())
