"""The command lines of public evaluation tools, and what is refused before anything starts."""

import json
import shlex

import pytest
from tokenizers import AddedToken, Tokenizer

from nemo_cascade.cli.external import hf_folder, yarn_overrides
from nemo_cascade.cli.main import REFUSED, main
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.errors import RunFolderError, RuntimeUnavailableError
from nemo_cascade.evaluation.external import Settings, results_of
from nemo_cascade.nano.tokenizer import train_nano_tokenizer

CONFIG = {"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "run" / "stages" / "06-math_rl" / "hf"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return chatting(folder, "cascade1")


def chatting(folder, form):
    """Give a model folder a tokenizer and a chat template."""
    train_nano_tokenizer((), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in NAMED[form].control])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": NAMED[form].jinja}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def dry(capsys, folder, *arguments):
    code = main(["evaluate", str(folder), *arguments, "--dry"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_yarn_may_stretch_the_base_models_positions_where_training_declared_more(model, capsys):
    (model / "config.json").write_text(json.dumps(CONFIG | {"max_position_embeddings": 65536}))
    words = ["--with", "ns", "--benchmarks", "gpqa:8", "--yarn", "2"]
    assert '"original_max_position_embeddings": 65536' in dry(capsys, model, *words)[1]
    code, printed, _ = dry(capsys, model, *words, "--yarn-from", "32768")
    assert code == 0
    assert '"factor": 2.0, "original_max_position_embeddings": 32768' in printed
    assert '"max_position_embeddings": 65536' in printed
    code, _, told = dry(capsys, model, *words, "--yarn-from", "16384", "--budget", "65536")
    assert code == REFUSED
    assert "the model reaches 32768 positions, --budget 65536 is more" in told
    code, _, told = dry(capsys, model, *words[:-2], "--yarn-from", "32768")
    assert code == REFUSED
    assert "--yarn-from 32768: the positions that --yarn FACTOR stretches" in told


def test_ns_gets_the_papers_sampling_and_the_server_the_mode_and_yarn(model, capsys):
    words = ["--with", "ns", "--benchmarks", "aime24:64", "gpqa:8", "--yarn", "2"]
    code, printed, _ = dry(capsys, model, *words)
    assert code == 0
    server, tool = printed.splitlines()
    assert "--benchmarks=aime24:64,gpqa:8" in tool
    assert "++inference.temperature=0.6 ++inference.top_p=0.95 ++inference.tokens_to_generate=61440" in tool
    assert "++parse_reasoning=True" in tool
    assert '"mode": "think"' in server
    assert '"factor": 2.0, "original_max_position_embeddings": 32768' in server
    assert "--max-model-len 65536" in server
    code, printed, _ = dry(capsys, model, *words, "--mode", "no_think")
    assert code == 0
    assert '"mode": "no_think", "enable_thinking": false' in printed
    assert "parse_reasoning" not in printed


@pytest.mark.parametrize("form", ["cascade1", "nano_v2", "nemotron_4"])
def test_lm_eval_stops_at_the_end_of_the_turn_and_reads_behind_the_thoughts(model, capsys, tmp_path, form):
    _, printed, _ = dry(capsys, chatting(model, form), "--with", "lm-eval", "--benchmarks", "gsm8k")
    command = shlex.split(printed.splitlines()[1])
    assert f"until=['{NAMED[form].turn_end}']" in command
    assert any("think_end_token=</think>" in word for word in command)
    assert "seed=None" in command[command.index("--gen_kwargs") :]  # else the repeats of a prompt are drawn alike
    other = Settings("lm-eval", ["gsm8k"], "no_think", 0.6, 0.95, 100, 8, ["</s>", "<|call|>"])
    other = other.command("http://127.0.0.1:1", tmp_path)
    assert "until=['</s>', '<|call|>']" in other
    assert not any("think_end_token" in word for word in other)


def test_all_that_is_wrong_is_named_at_once(model, capsys):
    code, _, said = dry(
        capsys, model, "--with", "lm-eval", "--benchmarks", "gsm8k:8", "--prompt-tokens", "70000", "--budget", "65536"
    )
    assert code == REFUSED
    assert "no samples per prompt" in said
    assert "leaves no response" in said
    assert "the model reaches 32768 positions, --budget 65536" in said


def test_half_a_request_starts_nothing(model, capsys):
    code, _, said = dry(capsys, model, "--benchmarks", "aime24:64", "--yarn", "2")
    assert code == REFUSED
    assert "mend: --with ns" in said


def test_a_missing_tool_is_refused_with_its_package(model, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    words = ["evaluate", str(model), "--with", "ns", "--benchmarks", "aime24:64", "--yarn", "2"]
    assert main(words) == REFUSED
    assert "NVIDIA-NeMo/Skills" in capsys.readouterr().err
    assert not (model.parent / "external").exists()


def test_a_stage_is_found_by_name_and_never_guessed(model, tmp_path):
    assert hf_folder(model, None) == hf_folder(model.parent, None) == hf_folder(tmp_path / "run", "math_rl") == model
    for stage in (None, "code_rl"):
        with pytest.raises(RunFolderError, match=r"math_rl.*--stage"):
            hf_folder(tmp_path / "run", stage)


def test_yarn_keeps_the_rotary_base(model):
    rope = yarn_overrides(CONFIG, 3.0)
    assert rope["max_position_embeddings"] == 98304
    assert rope["rope_parameters"]["rope_theta"] == 1e6


def test_a_tool_without_results_is_no_success(tmp_path):
    with pytest.raises(RuntimeUnavailableError, match="no result"):
        results_of("ns", tmp_path)
