"""`pretune compress`: what it prints, writes and refuses, and that its result is a model as every other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretune
from pretune.cli import main
from pretune.nn.formats.format import outlier
from tests.tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, save_t5, word_tokenizer


@pytest.fixture
def gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    save_gpt2(Path("gpt2"), byte_tokenizer())
    Path("texts.txt").write_text("\n\n".join(f"{TEXTS[0]} {n} {n * 7}" for n in range(60)))
    Path("held.txt").write_text("\n\n".join(f"{TEXTS[0]} {n} {n * 3} and more" for n in range(12)))
    return tmp_path / "gpt2"


def _labels(path: Path, count: int = 40) -> None:
    rows = [f"{TEXTS[0]} {'good' if n % 2 else 'bad'} {n},{'ab'[n % 2]}" for n in range(count)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")


def test_prune_prints_what_it_does_and_what_it_cost(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prune.layers", "0.5", "--calibration", "texts.txt", "--calibration.tokens", "300"]
    words += ["--evaluate", "held.txt"]
    assert main(["compress", "prune", "gpt2", *words, "--no-allocator", "--output", "small"]) == 0
    said = capsys.readouterr().err
    assert said.splitlines()[0] == "compressing gpt2: prune -> small"
    assert "samples" in said
    assert "perplexity" in said
    assert "tokens a second" in said
    assert said.strip().splitlines()[-1].strip() == 'pretune generate small "a prompt"'
    record = json.loads(Path("small/compression.json").read_text())
    assert record["after"]["bytes"] < 0.8 * record["before"]["bytes"]
    assert record["after"]["scores"].keys() == record["before"]["scores"].keys()
    assert record["steps"][0]["config"]["layers"] == 0.5
    assert pretune.load("small").generate("the", max_new_tokens=3)
    assert main(["verify", "small"]) == 0


def test_flags_of_a_training_run_train_the_result(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _labels(Path("labels.csv"))
    save_bert(Path("bert"), word_tokenizer())
    words = ["--inner", "0.5", "--calibration", "labels.csv", "--calibration.tokens", "300", "--evaluate", "labels.csv"]
    training = ["--train", "labels.csv", "--task", "classification", "--steps", "2", "--batch", "4", "--length", "40"]
    assert main(["finetune", "--model", "bert", *training, "--no-allocator", "--output", "tuned"]) == 0
    more = [
        "--train",
        "labels.csv",
        "--steps",
        "2",
        "--batch",
        "4",
        "--length",
        "40",
        "--output",
        "small",
        "--no-allocator",
    ]
    assert main(["compress", "prune", "tuned", *words, *more]) == 0
    record = json.loads(Path("small/compression.json").read_text())
    assert record["steps"][0]["training"]["budget"]["steps"] == 2
    assert "accuracy" in record["after"]["scores"]
    assert pretune.load("small").predict("a good one").label in ("a", "b")


METHOD = """
from pretune import config

class Config(config.Config):
    factor: float = 0.5

def apply(model, config, context):
    model.stack.blocks[0].feedforward.down.weight.data.mul_(config.factor)
    return model
"""


_KILLED = """
import os, signal, sys
from pretune.cli import main
from pretune.train.compression import run
run.finetune = lambda recipe: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_what_a_killed_process_left_goes_with_the_next_one(gpt2: Path, tmp_path: Path) -> None:
    """Models between steps lay in the system's temporary folder, gigabytes of them, for good."""
    _labels(Path("labels.csv"))
    save_bert(Path("bert"), word_tokenizer())
    training = ["--train", "labels.csv", "--steps", "1", "--batch", "4", "--length", "40"]
    task = ["--task", "classification", "--no-allocator"]
    assert main(["finetune", "--model", "bert", *training, *task, "--output", "tuned"]) == 0
    words = ["compress", "prune", "tuned", "--inner", "0.5", "--calibration", "labels.csv", *training, "--no-allocator"]
    words += ["--output", "small"]
    (tmp_path / "temporary").mkdir()
    before = {*Path().iterdir()}
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _KILLED, *words], env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not list((tmp_path / "temporary").glob("pretune*"))
    (left,) = {*Path().iterdir()} - before
    assert any(left.rglob("model.safetensors"))
    assert main(words) == 0
    assert {*Path().iterdir()} - before == {Path("small")}
    assert not list(Path("small").rglob("*start*"))


def test_steps_of_a_recipe_come_in_order_with_a_users_own_method(gpt2: Path) -> None:
    Path("mine.py").write_text(METHOD)
    Path("chain.toml").write_text(
        'model = "gpt2"\noutput = "small"\nevaluation = {speed = false}\n'
        'calibration = {data = "texts.txt", tokens = 300}\n'
        '[[compress]]\nmethod = "mine.py"\nfactor = 0.25\n[[compress]]\nmethod = "prune"\ninner = 0.5\n'
    )
    assert main(["compress", "chain.toml", "--seed", "3", "--no-allocator"]) == 0
    record = json.loads(Path("small/compression.json").read_text())
    assert [step["method"] for step in record["steps"]] == ["mine.py", "prune"]
    assert record["recipe"]["seed"] == 3
    assert record["speed"] is None
    model = pretune.compress_model("gpt2", "mine.py", output="again", factor=0.25, **{"evaluation.speed": False})
    plain = pretune.load("gpt2", precision="fp32").network.get_parameter("stack.blocks.0.feedforward.down.weight")
    changed = pretune.load("again", precision="fp32").network.get_parameter("stack.blocks.0.feedforward.down.weight")
    assert torch.equal(changed, plain * 0.25)
    assert model.network.family == "gpt2"


@pytest.mark.charts
def test_a_quantized_model_is_a_model_as_every_other(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--format", "q4_0", "--values", "gptq", "--options.passes", "1", "--calibration", "texts.txt"]
    more = ["--calibration.tokens", "600", "--no-evaluation.speed", "--no-allocator"]
    assert main(["compress", "quantize", "gpt2", *words, *more, "--evaluate", "held.txt", "--output", "small"]) == 0
    record = json.loads(Path("small/compression.json").read_text())
    places = record["steps"][0]["places"]
    assert 0 < places["stack.blocks.1.feedforward.down"]["error"] < 0.2
    assert places["embedding.word"]["format"] == "q8_0"
    assert record["after"]["bytes"] < 0.35 * record["before"]["bytes"]
    assert record["after"]["weights"] == record["before"]["weights"]
    held = record["after"]["scores"]["loss/clm"] - record["before"]["scores"]["loss/clm"]
    assert abs(held) < 0.2
    capsys.readouterr()
    assert main(["report", "small"]) == 0
    assert "Relative output error" in Path("small/report.html").read_text()
    small = pretune.load("small")
    assert small.generate("the quick", max_new_tokens=2)
    assert small.embed("the quick").shape == (32,)
    assert main(["compress", "quantize", "small", "--output", "smaller", "--no-allocator"]) == 64
    assert "rounded already" in capsys.readouterr().err
    assert not Path("smaller").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["prune"], 64, "expected METHOD MODEL"),
        (["prunes", "gpt2", "--output", "x"], 64, "did you mean 'prune'"),
        (["prune", "gpt2", "--layer", "0.5", "--output", "x"], 64, "--layer"),
        (["prune", "gpt2", "--layers", "0.5", "--output", "x"], 64, "--calibration"),
        (["prune", "gone", "--layers", "0.5", "--calibration", "texts.txt", "--output", "x"], 66, "gone"),
        (["prune", "gpt2", "--layers", "0.5", "--calibration", "gone.txt", "--output", "x"], 66, "gone.txt"),
        (["prune", "gpt2", "--layers", "0.5", "--calibration", "texts.txt", "--output", "gpt2"], 73, "exists already"),
        (["prune", "gpt2", "--layers", "0.5", "--calibration", "short.txt", "--output", "x"], 65, "256 are needed"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    gpt2: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    Path("short.txt").write_text("few words")
    before = sorted(Path().rglob("*"))
    assert main(["compress", *words, "--no-allocator"]) == code
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


COMMON = 'model = "gpt2"\noutput = "small"\ncalibration = {data = ["texts.txt"]}\n'


@pytest.mark.parametrize(
    ("steps", "code", "message"),
    [
        ('[[compress]]\nmethod="prune"\nlayers=0.5\ntraining={budge={steps=1}}', 64, "did you mean 'budget'?"),
        (
            '[[compress]]\nmethod="prune"\nlayers=0.5\ntraining={budget={steps=1}}',
            64,
            "name one, such as --objective mlm",
        ),
        (
            '[[compress]]\nmethod="prune"\nlayers=0.5\n'
            'training={task="classification", data={train=["nothing.csv"]}, budget={steps=1}}',
            66,
            "nothing.csv: no such file",
        ),
        ('[[compress]]\nmethod="quantize"\n[[compress]]\nmethod="prune"\nlayers=0.5', 64, "put quantize last, once"),
        ('[[compress]]\nmethod="quantize"\n[[compress]]\nmethod="quantize"', 64, "put quantize last, once"),
    ],
)
def test_what_is_wrong_with_a_later_part_is_said_before_the_first_step(
    gpt2: Path, capsys: pytest.CaptureFixture[str], steps: str, code: int, message: str
) -> None:
    Path("steps.toml").write_text(COMMON + steps)
    before = sorted(Path().rglob("*"))
    assert main(["compress", "steps.toml", "--no-allocator"]) == code
    answer = capsys.readouterr().err
    assert message in answer
    assert "step 1 of" not in answer
    assert sorted(Path().rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_refused_before_the_first_step(
    gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("in the way")
    assert main(["compress", "quantize", "gpt2", "--output", "file/small", "--no-allocator"]) == 73
    answer = capsys.readouterr().err
    assert "file/small: cannot create the folder" in answer
    assert "step 1 of" not in answer


@pytest.mark.filterwarnings("error")
def test_an_outlier_of_a_weight_is_found_without_a_warning_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(200, 200))
    weight.data[1, 2] = 1e4
    assert outlier(weight) == "1e+04 at row 1, column 2 is 200 times the rms"


@pytest.mark.parametrize(
    ("part", "value"),
    [("bytes", "x"), ("bytes", 10**400), ("scores", {"perplexity/clm": None}), ("scores", {"perplexity/clm": 0})],
)
def test_a_damaged_record_is_no_fault_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, value: object
) -> None:
    sizes = {"bytes": 1, "weights": 1, "operations": 1, "scores": {"perplexity/clm": 1}}
    record = {"version": 1, "steps": [], "before": sizes | {part: value}, "after": sizes}
    (tmp_path / "compression.json").write_text(json.dumps(record))
    assert main(["report", str(tmp_path)]) == 65
    assert "compression.json" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_layers_of_a_rounded_model_are_no_student(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "quantize", "gpt2", "--no-evaluation.speed", "--output", "q8", "--no-allocator"]) == 0
    words = ["--student.layers", "1", "--train", "labels.csv", "--task", "classification", "--steps", "1"]
    _labels(Path("labels.csv"))
    assert main(["compress", "distil", "q8", *words, "--output", "small", "--no-allocator"]) == 64
    assert "is rounded to q8_0, and what is rounded does not learn" in capsys.readouterr().err
    assert not Path("small").exists()


@pytest.mark.parametrize("target", ["gguf", "compressed-tensors"])
def test_an_export_that_is_refused_names_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_t5(Path("t5"), byte_tokenizer())
    assert main(["export", "t5", "out.gguf" if target == "gguf" else "out", "--format", target]) == 65
    assert "use --format ctranslate2; nothing was written" in capsys.readouterr().err
