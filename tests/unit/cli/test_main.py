"""The command line as a user meets it: clear refusals, exit codes, nothing half-written."""

import json
import subprocess
import sys

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cli import main as command
from nemo_cascade.cli.verbs import plan
from nemo_cascade.config.checks import host
from nemo_cascade.config.reading.compose import compose
from tests.support.pinned_nano import PINNED


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "gpu_present", lambda: False)

    def run(*arguments):
        code = command.main(arguments)
        told = capsys.readouterr()
        return code, told.out, " ".join(told.err.split())

    return run


def test_a_plan_shows_stages_and_layout_and_writes_nothing(cli, tmp_path):
    code, told, _ = cli("run", *PINNED, "--dry", "name=mine", "parallel=tp2")
    assert code == 0
    for words in ("runs/mine (new)", "TP 2 x PP 1", "sft1", "math_rl", "16 x 8", "math_train.jsonl", "improves math"):
        assert words in told
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_a_cluster_is_shown_here_with_what_is_lacking_and_a_run_is_refused(cli, tmp_path):
    cluster = ["cluster=dgx_h100", "cluster.num_nodes=2", "model.source=hf", "model.path=weights", "prepare=none"]
    code, told, _ = cli("run", *PINNED, *cluster, "--dry")
    assert code == 0
    lacking = told.partition("not on this machine (a run here would be refused):")[2]
    for words in ("has none", "need a Ray cluster", "model folder not found", "data not found; got: stages.sft1"):
        assert words in lacking
    code, told, complaint = cli("run", *PINNED, *cluster)
    assert code == command.REFUSED
    assert "model folder not found" in complaint
    assert told == ""
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_than_the_recipe_expects_are_refused(cli, tmp_path):
    architecture = compose(PINNED)[0].model.architecture
    (tmp_path / "config.json").write_text(json.dumps(architecture | {"num_hidden_layers": 7}))
    code, _, complaint = cli("plan", *PINNED, "model.source=hf", "model.path=.")
    assert code == command.REFUSED
    assert "num_hidden_layers 7, not 4" in complaint


def test_a_reward_model_of_its_own_size_has_a_layout_of_its_own(cli, tmp_path):
    # Qwen2.5-72B-Instruct's published sizes.
    sizes = {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
    rest = {"model_type": "qwen2", "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768}
    folder = tmp_path / "models" / "Qwen2.5-72B-Instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes | rest))
    stage = "stages.reward_model"
    code, told, _ = cli("plan", "cascade=nemotron_cascade/8b")
    assert code == 0
    assert "reward_model: 64 ranks = TP 8 x PP 4 x CP 1 x DP 2" in told
    assert "2 x TP 8 in service" in told
    wrong = [f"{stage}.parallel.pipeline_model_parallel_size=3", f"{stage}.seq_length=65536"]
    code, _, complaint = cli("plan", "cascade=nemotron_cascade/8b", *wrong, f"{stage}.parallel.data_parallel_size=4")
    assert code == command.REFUSED
    assert "80 layers are not a multiple of pipeline_model_parallel_size 3" in complaint
    assert f"{stage}.seq_length=65536; allowed: max_position_embeddings=32768 of models/Qwen2.5" in complaint
    assert f"{stage}.parallel: 96 ranks; allowed: 80 GPUs" in complaint


def test_a_plan_tells_that_attention_is_padded(cli):
    code, told, _ = cli(
        "plan",
        "cascade=nano",
        "parallel=tp2",
        "model.architecture.intermediate_size=384",
        "parallel.tensor_model_parallel_size=3",
        "parallel.pad_attention_groups=true",
    )
    assert code == 0
    assert "1 zero padding group beside 2 key/value heads in every layer, for TP 3" in told


REFUSALS = {
    "no such model": (
        ["model.source=hf", "model.path=models/Qwen3-8B-Base"],
        ["model folder not found", "models/Qwen3-8B-Base", "set model.path"],
    ),
    "much at once": (
        [
            "parallel.tensor_model_parallel_size=5",
            "parallel.pipeline_model_parallel_size=3",
            "parallel.expert_model_parallel_size=2",
            "cluster.device=gpu",
            "stages.sft1.seq_length=8192",
            "stages.sft1.promise.improve=[chess]",
        ],
        [
            "num_key_value_heads 2",
            "intermediate_size 384 is not a multiple of tensor_model_parallel_size 5",
            "4 layers are not a multiple of pipeline_model_parallel_size 3",
            "expert_model_parallel_size 2: the model has no experts",
            "asks for a GPU, this machine has none; got: gpu; allowed: cpu; mend: cluster.device=cpu",
            "stages.sft1.seq_length=8192; allowed: max_position_embeddings=4096",
            "got: chess",
        ],
    ),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_run_is_refused_clearly_and_leaves_nothing_behind(cli, tmp_path, arguments, words):
    code, told, complaint = cli("run", *PINNED, *arguments)
    assert code == command.REFUSED
    assert told == ""
    assert "Traceback" not in complaint
    for word in words:
        assert word in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_of_another_configuration_is_refused_with_the_difference(cli, tmp_path):
    folder = tmp_path / "runs" / "nano"
    RunFolder(folder).write_record(*compose(["cascade=nano"]))
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    code, _, complaint = cli("run", "cascade=nano", "stages.math_rl.sampling.temperature=1.2")
    assert code == command.REFUSED
    assert "stages.math_rl.sampling.temperature: 1.0 -> 1.2" in complaint
    assert "resume=fork" in complaint
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert "goes on where it stopped" in cli("plan", "cascade=nano")[1]


def test_a_traceback_is_shown_for_defects_and_on_request_only(cli, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(plan, "preflight", broken)
    code, _, complaint = cli("plan", "cascade=nano")
    assert code == command.DEFECT
    assert "ZeroDivisionError: oops" in complaint
    code, _, complaint = cli("run", "cascade=nanoo", "--debug")
    assert code == command.REFUSED
    assert "Traceback" in complaint

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "preflight", interrupted)
    assert cli("plan", "cascade=nano")[0] == command.INTERRUPTED


def test_overrides_may_stand_around_options_and_unknown_options_are_refused(cli):
    args = command.parse(["run", "cascade=nano", "--dry", "~seed", "+a.b=1"])
    assert args.overrides == ["cascade=nano", "~seed", "+a.b=1"]
    for wrong in (["run", "cascade=nano", "--drry"], ["convert", "from", "to", "cascade=nano"], []):
        with pytest.raises(SystemExit) as ended:
            command.main(wrong)
        assert ended.value.code == command.REFUSED


def test_explain_tells_value_and_origin(cli):
    code, told, _ = cli("explain", "stages.math_rl.optimizer.lr", "cascade=nano", "stages.math_rl.optimizer.lr=1e-4")
    assert code == 0
    assert "Peak learning rate" in told
    assert "command line: stages.math_rl.optimizer.lr=1e-4" in told
    assert "nano | " in cli("explain", "model")[1]
    assert cli("explain", "rollout.kv_cach_gib")[0] == command.REFUSED


def test_report_refuses_what_is_no_run_folder(cli, tmp_path):
    code, _, complaint = cli("report", str(tmp_path))
    assert code == command.REFUSED
    assert "no config.yaml" in complaint


def test_doctor_compares_with_the_lock(cli, tmp_path):
    lock = tmp_path / "x.lock"
    lock.write_text("# pins\nnumpy==0.0.1\nno-such-package-here==1.0\n")
    code, told, _ = cli("doctor", "--lock", str(lock))
    assert code == command.REFUSED
    assert "missing: no-such-package-here" in told
    assert "(lock: 0.0.1)" in told
    assert "no CUDA GPU here" in told


def test_planning_loads_no_heavy_library(tmp_path):
    code = (
        "import sys; from nemo_cascade.cli.main import main; assert main(['plan', 'cascade=nano']) == 0;"
        "heavy = {'torch', 'megatron', 'vllm', 'ray', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_what_is_piped_has_no_blanks_at_line_ends_and_a_log_line_is_one_line(tmp_path):
    program = (
        "import logging; from nemo_cascade.cli.screen import terminal; terminal.set_up_logging(False);"
        "logging.getLogger('x').info('word ' * 100 + 'end'); terminal.err.print('complaint ' * 50);"
        "table = terminal.table('title', 'a', 'b#'); table.add_row('x', '1'); table.add_row('longer', '22');"
        "terminal.out.print(table)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    logged, complaint = told.stderr.splitlines()
    assert logged.endswith("INFO " + "word " * 100 + "end")
    assert complaint == ("complaint " * 50).rstrip()
    assert all(line == line.rstrip() for line in told.stdout.splitlines())
    assert told.stdout.splitlines()[0] == "title"
