"""The commands of docs/tuning.md do what the page says, on tiny models: every method that it names is there."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from tinymodels import save_bert, word_tokenizer

from benchmarks.tuning.table import with_tables
from pretune.cli import main
from pretune.config import validate
from pretune.find import variants
from pretune.train.recipe import Recipe

PAGE = (Path(__file__).parent.parent / "docs" / "tuning.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
RECIPES = {text.split()[0]: text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)}
SMALL = "--steps 8 --batch 4 --length 16 --device cpu --precision fp32 --threads 1 --holdout 0.2 --quiet --no-allocator"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model under the name of the real one, and tickets of two teams and of two topics."""
    root = tmp_path_factory.mktemp("tuning")
    save_bert(root / "minilm", word_tokenizer())
    rows = [("the quick brown fox", "fast"), ("the lazy dog", "slow")] * 12
    numbered = [(f"{text} {number}", team) for number, (text, team) in enumerate(rows)]
    with (root / "tickets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("message", "team"), *numbered])
    with (root / "topics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("message", "topic"), *((text, "abc"[n % 3]) for n, (text, _) in enumerate(numbered))]
        )
    (root / "adapters.toml").write_text(RECIPES["adapter_per_task"])
    return root


def run(command: str) -> int:
    """A command of the page, with a small model and few steps where it trains."""
    words = shlex.split(command)[1:]
    words += shlex.split(SMALL) if words[0] in ("finetune", "pretrain") else ["--quiet"]
    return main(words)


def test_what_the_page_begins_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    train, predict = COMMANDS[:2]
    (report,) = [line for line in COMMANDS if line.startswith("pretune report")]
    (merge,) = [line for line in COMMANDS if line.startswith("pretune merge")]
    assert run(train) == 0
    assert run(predict) == 0
    assert run(report) == 0
    assert "What the tuning method changed" in (folder / "tuned" / "report.html").read_text(encoding="utf-8")
    assert not (folder / "tuned" / "model.safetensors").exists()
    proof = json.loads((folder / "tuned" / "run.json").read_text())["proof"]
    assert proof["frozen_before"] == proof["frozen_after"]
    assert proof["idle"] == []
    assert run(merge) == 0
    assert (folder / "plain" / "model.safetensors").is_file()
    shutil.copytree(folder / "tuned", folder / "topics")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/tuning.md", "exec"), {})  # noqa: S102


def test_an_adapter_for_each_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (train,) = [line for line in COMMANDS if "adapters.toml" in line]
    uses = [line for line in COMMANDS if "adapters/" in line]
    assert len(uses) == 2
    assert run(train) == 0
    assert [run(use) for use in uses] == [0, 0]
    proofs = [each["proof"] for each in json.loads((folder / "adapters" / "run.json").read_text())["adapters"].values()]
    assert [proof["idle"] for proof in proofs] == [[], []]


@pytest.mark.parametrize("method", ["adalora", "top", "adapter"])
def test_others(folder: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (command,) = [line for line in COMMANDS if f"--tune {method}" in line]
    assert run(command.replace("--output tuned", f"--output {method}")) == 0


def test_every_method_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)`(?: \(by default\))? \|", PAGE, re.MULTILINE)
    assert set(variants("tune")) <= set(rows)


def test_measured_tables_are_those_of_the_results() -> None:
    """Make them again by `python -m benchmarks.tuning --draw`."""
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    assert with_tables(PAGE, [json.loads(path.read_text()) for path in sorted(results.glob("tuning-*.json"))]) == PAGE


def test_the_recipe_of_rates_is_one() -> None:
    import tomllib

    text = RECIPES["[optimizer]"]
    recipe = validate(Recipe, {**tomllib.loads(text), "objective": {"mlm": 1.0}, "output": "x"}, "docs/tuning.md")
    assert recipe.optimizer.rates == {"heads": 10, "layers[0:2]": 0.1}
