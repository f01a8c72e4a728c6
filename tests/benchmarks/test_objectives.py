"""The comparison of objectives: from texts to a table, gone on with where it stopped."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.quality import compare as module
from benchmarks.quality import vectors
from benchmarks.quality.compare import Comparison
from benchmarks.quality.table import MARKER, table, with_tables
from benchmarks.quality.trials import COMMON, LANGUAGES, TRIALS, Labels, Language
from pretune.cli import main
from pretune.config import merge
from pretune.errors import BenchError


@pytest.fixture
def language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Language:
    data = tmp_path / "data"
    data.mkdir()
    lines = [f"The {'cat' if n % 2 else 'dog'} number {n} reads a book. Then it sleeps." for n in range(400)]
    (data / "corpus.txt").write_text("\n".join(lines))
    for name, count in (("train", 24), ("test", 12)):
        rows = [f"a {'cat' if n % 2 else 'dog'} sleeps {n}\tit reads\t{n % 2}" for n in range(count)]
        (data / f"{name}.tsv").write_text("\n".join([*rows, "unsure\tit\t-"]))
    monkeypatch.setenv("PRETUNE_DATA", str(data))
    columns: dict[str, Any] = {"columns": ("text", "second", "label")}
    sets = (
        Labels("texts", "train.tsv", "test.tsv", columns),
        Labels("pairs", "train.tsv", "test.tsv", {**columns, "second": "second"}),
    )
    return Language("en", ("corpus.txt",), 200, None, sets)


def in_this_process(words: Sequence[str], **options: Any) -> SimpleNamespace:
    """What `pretrain_in_process` starts, here; that it starts a process is seen where one fails."""
    assert words[:4] == [sys.executable, "-m", "pretune", "pretrain"]
    return SimpleNamespace(returncode=main([*words[3:], "--no-allocator", "--quiet"]))


def test_from_texts_to_a_table(language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    monkeypatch.setattr(module, "COMMON", merge(dict(COMMON), {"model": {"overrides": small}}))
    monkeypatch.setattr(module.subprocess, "run", in_this_process)
    comparison = Comparison(tmp_path / "benchmark", tmp_path / "results" / "objectives-x.json", 0.003, 2, "fp32")
    trials = [trial for trial in TRIALS if trial.name in ("none", "mlm-simcse", "none-albert")]
    tree = json.loads(comparison.run([language], trials).read_text())
    actual = tree["languages"]["en"]
    assert list(actual) == ["none", "mlm-simcse", "none-albert"]
    assert json.loads((comparison.folder / "en/runs/none-albert/config.json").read_text())["num_hidden_groups"] == 4
    assert actual["none"]["stages"] == []
    assert [stage["step"] >= 1 for stage in actual["mlm-simcse"]["stages"]] == [True, True]
    assert [stage["recipe"]["optimizer"]["name"] for stage in actual["mlm-simcse"]["stages"]] == ["muon", "adamw"]
    for trial in actual.values():
        assert set(trial["sets"]) == {"texts", "pairs"}
        scores = [score for kinds in trial["sets"].values() for values in kinds.values() for score in values]
        assert len(scores) == 8
        assert all(0 <= score <= 1 for score in scores)
    assert actual["none"]["sets"]["texts"]["probe"] == [1.0, 1.0]  # one word tells the label
    assert not list(comparison.folder.glob("fine-tuning*"))
    output = table(tree)
    assert "| no pretraining (BERT) |  | **100.0 ± 0.0** |" in output
    assert len({line.count("|") for line in output.splitlines() if line.startswith("|")}) == 1
    assert table({**tree, "languages": {"en": dict(reversed(actual.items()))}}) == output

    def never(*args: Any) -> None:
        raise AssertionError("what is there is not made again")

    monkeypatch.setattr(module.subprocess, "run", never)
    monkeypatch.setattr(Comparison, "score", never)
    monkeypatch.setattr(module, "train_tokenizer", never)
    assert json.loads(comparison.run([language], trials).read_text()) == tree
    again: list[str] = []
    monkeypatch.setattr(Comparison, "score", lambda self, language, trial, labels: again.append(trial.name) or {})
    actual["none"]["sets"]["texts"]["fine-tuning"] = []  # what was scored in part is no score
    actual["mlm-simcse"]["stages"][1]["tokens"] += 1  # nor is one of other weights
    comparison.results.write_text(json.dumps(tree))
    for labels in language.sets:
        for trial in trials:
            comparison._judge(language, trial, labels)
    assert again == ["none", "mlm-simcse", "mlm-simcse"]
    for other in (replace(comparison, minutes=1.0), replace(comparison, precision="bf16")):
        with pytest.raises(BenchError, match="of other minutes or precision"):
            other._known()
    recipe = tomllib.loads((comparison.folder / "en/runs/mlm-simcse-0.003-0.toml").read_text())
    with pytest.raises(BenchError, match="was made by another recipe"):
        module.pretrain_in_process({**recipe, "seed": 1})


@pytest.mark.slow
def test_vectors_before_and_after_simcse(language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["the", "cat", "dog", "reads", "a", "book", "then", "it", "sleeps"]
    lines = [
        f"g\tf\t2012\t{n}\t{score:.1f}\tthe cat reads\t{' '.join(words[n:])}" for n, score in enumerate((1, 5, 4, 3, 2))
    ]
    pairs = tmp_path / "data" / "pairs" / "stsbenchmark" / "sts-test.csv"
    pairs.parent.mkdir(parents=True)
    pairs.write_text("\n".join([*lines[:-1], f"{lines[-1]}\tsome\tmore"]))
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    monkeypatch.setattr(vectors, "LANGUAGES", (language,))
    monkeypatch.setattr(vectors, "_SHAPE", shape)
    results = tmp_path / "simcse-x.json"
    tree = json.loads(vectors.Vectors(tmp_path / "benchmark", results, 0.003, 2, 2, "fp32").run().read_text())
    assert (tree["minutes"], tree["steps"], tree["precision"]) == (0.003, 2, "fp32")
    assert tree["pretraining"]["tokens"] > 0
    assert tree["pretraining"]["recipe"]["model"]["overrides"] == shape
    assert [(run["step"], run["recipe"]["data"]["batch"]) for run in tree["simcse"]] == [(2, 64), (2, 64)]
    scores = [tree["sts-b"]["before"], *tree["sts-b"]["after"]]
    assert len(scores) == 3
    assert all(-1 <= score <= 1 for score in scores)
    weights = (tmp_path / "benchmark" / "en" / "runs").glob("minilm-*/model.safetensors")
    assert len({path.read_bytes() for path in weights}) == 3
    monkeypatch.setattr(module.subprocess, "run", None)
    vectors.Vectors(tmp_path / "benchmark", results, 0.003, 2, 2, "fp32").run()  # finished runs are kept


def test_a_run_that_fails_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"failed with 64; see .*out\.log"):
        module.pretrain_in_process({"output": str(tmp_path / "out"), "nonsense": 1})
    assert "nonsense" in (tmp_path / "out.log").read_text()


def test_tables_stand_behind_the_marker() -> None:
    machine = {"cpu": "X", "cores": 2, "capability": "AVX9"}
    trial = {"label": "MLM", "stages": [{"tokens": 2_000_000}], "sets": {"s": {"probe": [0.5, 0.7], "fine-tuning": []}}}
    tree = {"machine": machine, "date": "2026-01-01", "precision": "bf16", "minutes": 10, "seeds": 2}
    page = with_tables(f"# Page\n\n{MARKER}\nold", [{**tree, "languages": {"en": {"mlm": trial}}}])
    assert "old" not in page
    assert "On 2 cores of X, AVX9, bf16, 2026-01-01:" in page
    assert "| MLM | 2.0 | **60.0 ± 14.1** |  |  |" in page  # no mean of what is not all there
    trial["sets"]["s"]["fine-tuning"] = [0.3]
    page = with_tables(page, [{**tree, "languages": {"en": {"mlm": trial}}}])
    assert "| MLM | 2.0 | **60.0 ± 14.1** | **30.0 ± 0.0** | 45.0 |" in page
    other = {**trial, "sets": {"s": {"probe": [0.2], "fine-tuning": []}}}
    page = with_tables(page, [{**tree, "languages": {"en": {"mlm": trial, "other": other}}}])
    assert "| MLM | 2.0 | **60.0 ± 14.1** | 30.0 ± 0.0 | 45.0 |" in page  # best of one is not best
    assert with_tables(page, []) == f"# Page\n\n{MARKER}\n"


def test_trials_are_those_of_the_page() -> None:
    assert [trial.name for trial in TRIALS] == [
        "none", "mlm", "mlm-word", "mlm-span", "mlm-nsp", "mlm-simcse", "none-albert", "mlm-sop",
        "none-electra", "rtd", "none-xlnet", "plm", "none-gpt2", "clm"
    ]  # fmt: skip
    assert all(sum(stage.fraction for stage in trial.stages) in (0, 1) for trial in TRIALS)
    assert {language.name for language in LANGUAGES} == {"en", "zh"}
