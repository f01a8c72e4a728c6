"""Help: short, with true defaults and an example that runs; whole on request; before torch is loaded."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pretune.cli import app, main
from pretune.cli.help import EXAMPLES
from pretune.report.runs import list_runs

VERBS = sorted(EXAMPLES)
WORDS = ["the", "function", "returns", "an", "array", "of", "values", "sorted", "along", "its", "last", "axis"]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_verb_has_an_example() -> None:
    verbs = {name for name in app if not name.startswith("-")}
    groups = ("tokenizer", "corpus", "evaluate", "labels", "delta", "index")
    nested = {f"{group} {name}" for group in groups for name in app[group] if not name.startswith("-")}
    assert (verbs - {"tokenizer", "corpus", "labels", "delta", "help", "version"}) | nested == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_short_and_ends_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`finetune --help` had 192 lines and no example, and said `None`."""
    output = printed(capsys, *verb.split(), "--help")
    lines = output.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert f"Every flag, explained: pretune {verb} --help-all" in output
    assert "".join(EXAMPLES[verb][-1].split()) in "".join(output.replace("\\\n", "").split())
    assert re.findall(r"\b(?:None|True|False|STR|INT|tuple)\b|\(\)", output) == []
    assert output == printed(capsys, "help", *verb.split())


@pytest.mark.parametrize("verb", VERBS)
def test_all_help_speaks_no_python(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = printed(capsys, *verb.split(), "--help-all")
    assert "--device TEXT" in output
    assert re.findall(r"\b(?:None|True|False|STR|INT|tuple)\b|\(\)|\d{9}e", output) == []


def test_defaults_are_those_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """Help said lr 5e-4 and the last weights where fine-tuning takes 1e-4 and the best."""
    tuning = " ".join(printed(capsys, "finetune", "--help").replace("│", "").split())
    assert "--epochs NUMBER passes over the data [default: from the data]" in tuning
    assert "peak of the schedule [default: from the data]" in tuning
    assert re.search("--task NAME the task with its settings: cert, .*classification, .*similarity, ", tuning)
    assert "--folds INTEGER" in tuning  # the end of data.folds, which no other field has
    pretraining = " ".join(printed(capsys, "pretrain", "--help").replace("│", "").split())
    assert "--family TEXT" in pretraining
    assert "--steps INTEGER optimizer steps [default: 1000]" in pretraining
    assert "peak of the schedule [default: 0.0005]" in pretraining
    whole = printed(capsys, "finetune", "--help-all")
    assert "--optimizer.lr NUMBER = 0.0001\n" in whole
    assert "--evaluation.keep last|best|average = best\n" in whole


def test_all_help_has_the_fields_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    whole = printed(capsys, "finetune", "--task", "classification", "--optimizer", "muon", "--help-all")
    for field in ("task.classification.class_weights", "optimizer.momentum", "data.columns.text", "seed"):
        assert f"--{field} " in whole
    assert "--lr = --optimizer.lr" in whole
    for useless in ("--data.stores", "--data.temperature", "nsp", "mlm"):
        assert useless not in whole
    pretraining = printed(capsys, "pretrain", "--objective=mlm,sop", "--model.family", "bert", "--help-all")
    for field in ("objective.mlm.rate", "objective.sop.swapped", "data.stores", "model.overrides.NAME"):
        assert f"--{field} " in pretraining
    assert "--data.train" not in pretraining


def test_all_help_of_a_file_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from pretune.tasks.classification import Classification\n\n\nclass Own(Classification):\n"
        "    class Config(Classification.Config):\n"
        '        """Mine.\n\n        Attributes:\n            depth: how deep.\n        """\n\n        depth: int = 3\n'
    )
    whole = printed(capsys, "finetune", "--task", str(own), "--help-all")
    assert f"--task.{own}.depth INTEGER = 3\n      how deep." in whole
    assert f"--task.{own}.label_smoothing NUMBER = 0" in whole
    assert whole.count("--threads") == whole.count("--device TEXT") == 1
    own.write_text("class (")
    assert "--optimizer.lr" in printed(capsys, "finetune", "--task", str(own), "--help-all")


def test_all_help_of_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[task.similarity]\n[optimizer]\nname = "muon"\n')
    whole = printed(capsys, "finetune", str(recipe), "--help-all")
    assert "--task.similarity.temperature NUMBER = 0.05" in whole
    recipe.write_text("[task.nothing")
    assert "--optimizer.lr NUMBER = 0.0001" in printed(capsys, "finetune", str(recipe), "--help-all")
    assert "--optimizer.lr NUMBER = 0.0001" in printed(capsys, "finetune", "--task", "nothing", "--help-all")


def test_help_of_nothing_and_of_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "help") == printed(capsys, "--help")
    assert main(["help", "fintune"]) == 64
    assert "did you mean 'finetune'?" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    script = "import sys; from pretune.cli import main\n"
    script += "for verb in sys.argv[1:]: assert not main([*verb.split(), '--help-all']), verb\n"
    script += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    command = [sys.executable, "-c", script, "finetune", "pretrain", "prepare", "tokenizer train", "predict", "augment"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


START = """
import os, sys
class First:
    encoding = "utf-8"
    def write(self, text):
        os.write(1, " ".join(sorted(sys.modules)).encode() + b"\\n" + text.encode())
        os._exit(0)
    def flush(self): pass
    def isatty(self): return False
sys.stderr = First()
from pretune.cli import main
main(sys.argv[1:])
"""
FIRST_LINES = {
    "finetune --task classification --model m --train labels.csv": "fine-tuning m with classification",
    "pretrain --objective mlm --stores store": "pretraining bert mini",
    "show --objective mlm --stores store": "planning the run",
    "tokenizer train corpus.txt --output t": "training a tokenizer on corpus.txt",
    "tokenizer extend corpus.txt --model m --output t": "extending m with words of corpus.txt",
    "prepare corpus.txt --tokenizer m --output s": "tokenizing corpus.txt with m",
    "augment labels.csv --methods swap --output a.csv": "augmenting labels.csv -> a.csv",
    "predict m x": "loading m",
    "runs none": "pretune: none: no such folder",
}


HEAVY = {"torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "tokenizers", "transformers", "safetensors"}
MODULES = 480  # about half a second of CPU


@pytest.mark.parametrize("line", FIRST_LINES)
def test_nothing_heavy_is_imported_before_the_first_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a b")
    (tmp_path / "labels.csv").write_text("text,label\na,b\n")
    (tmp_path / "m").mkdir()
    command = [sys.executable, "-c", START, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    modules, text = done.stdout.split("\n", 1)
    assert text.startswith(FIRST_LINES[line])
    assert not HEAVY & set(modules.split())
    assert len(modules.split()) <= MODULES
    for entry in tmp_path.iterdir():
        assert entry.name in ("corpus.txt", "labels.csv", "m") or entry.name.startswith(".")


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it is printed, but with fewer steps and a smaller model."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice(WORDS, 12)).capitalize() + "." for _ in range(1200)]
    text = "\n\n".join(" ".join(sentences[n : n + 4]) for n in range(0, 1200, 4))
    Path("corpus.txt").write_text(text)
    Path("domain.txt").write_text("A glomerulus filters, and glomeruli filter. " * 20)
    rows = [f"{sentence},{'array' if 'array' in sentence else 'none'}" for sentence in sentences[:160]]
    for name, part in (("train.csv", rows[:120]), ("test.csv", rows[120:])):
        Path(name).write_text("\n".join(["text,label", *part]))
    new = [f"{sentence},{sentence}" for sentence in sentences[:20]]
    Path("new.csv").write_text("\n".join(["text,title", *new]))
    Path("recipe.toml").write_text('[objective.mlm]\n[data]\nstores = ["store"]\n')
    order = ["tokenizer train", "prepare", "pretrain", "tokenizer extend", "augment", "show", "finetune", "evaluate"]
    order += ["init", "predict", "fill", "embed", "export", "verify", "report", "runs", "score", "generate", "chat"]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    small = ["--no-allocator", "--device", "cpu", "--quiet"]
    for verb in order:
        if verb == "init":
            Path("recipe.toml").unlink()
        for line in EXAMPLES[verb]:
            if line == "pretune init":  # asks
                continue
            words = shlex.split(line.replace("1000", "6").replace("8000", "120"))[1:]
            words += ["--model.size", "tiny", "--data.batch", "8"] if verb == "pretrain" else []
            assert main([*words, *small]) == 0, line
        if verb == "report":  # a GPT for the verbs that need one
            flags = "--objective clm --model.family gpt2 --model.size tiny --stores store --steps 2 --output gpt2"
            assert main(["pretrain", *flags.split(), *small]) == 0
    for verb, purpose, flags in (
        ("finetune", "classification", "--model bert --train train.csv --validation test.csv --run c1"),
        ("pretrain", "pretraining", "--stores store --size tiny --run c2"),
        ("pretrain", "continued-pretraining", "--model gpt2 --stores store --run c3"),
    ):
        assert main(["init", purpose, *flags.split(), "--output", f"{purpose}.toml", "--quiet"]) == 0
        assert main([verb, f"{purpose}.toml", "--steps", "2", *small]) == 0  # as it was written, but shorter
    runs = {run.path: run for run in list_runs(Path())}
    assert {runs[name].trains for name in ("c1", "c2", "c3")} == {"classification", "mlm", "clm"}
    assert json.loads((tmp_path / "gpt2" / "config.json").read_text())["model_type"] == "gpt2"
