"""Quality of tuning methods: a rate is chosen on development records, runs are kept, tables count distances to full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import benchmarks.page
from benchmarks.tuning import measure, one, sets, table
from benchmarks.tuning.measure import Measurement, key_of
from benchmarks.tuning.methods import METHODS, find_methods
from benchmarks.tuning.one import Order
from benchmarks.understanding import one as labelled
from benchmarks.understanding.sets import LabelledSet, Split
from pretune.errors import UsageError
from pretune.find import variants
from pretune.tune.method import find_method

RECORDS = [{"text": f"{word} cat {n}", "label": word} for n in range(20) for word in ("quick", "lazy")]
TINY = LabelledSet("sst2", "classification", "accuracy", "en", lambda: [Split(RECORDS, RECORDS[:6])])
MODELS = {"en": "a/minilm", "decoder": "a/gpt"}


def pretend(order: Order, minutes: float, module: str) -> dict[str, Any]:
    """Higher rates are better up to 1e-3, where a run fails."""
    if order.rate >= 1e-3:
        return {"error": "diverged"}
    score = 80 + 1e4 * order.rate + order.seed - (METHODS[order.method].curve != "full")
    ranks = {"a": 1, "b": 3} if "adalora" in order.method else {}
    learned = 1000 if order.method == "full" else 10
    sizes = {"train": 600, "learned_below_heads": learned, "parameters": 1000}
    return {"score": score, **sizes, "ranks": ranks, "train_seconds": 1.0}


def test_the_best_rate_of_the_development_records_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Order] = []
    monkeypatch.setattr(measure, "run_apart", lambda *args: (done.append(args[0]), pretend(*args))[1])
    path = tmp_path / "tuning.json"
    wanted = Measurement(path, MODELS, ("full", "adalora-all-2"), (1e-4, 3e-4, 1e-3), seeds=2)
    tree = wanted.run(["sst2", "chnsenticorp"])
    assert [(order.rate, order.seed, order.develop) for order in done[:5]] == [
        *((rate, 0, True) for rate in (1e-4, 3e-4, 1e-3)),
        *((3e-4, seed, False) for seed in (0, 1)),
    ]
    assert len(done) == 10, "no model for Chinese: that set is left out"
    wanted.run(["sst2"])
    assert [order.rate for order in done[10:]] == [1e-3, 1e-3], "only what failed is tried again"
    text = table.table(tree)
    assert "| full | 100.00% | 83.5 ± 0.7 (0.0003) | +0.00 |" in text
    assert "| adalora-all-2 | 1.00% | 82.5 ± 0.7 (0.0003) | -1.00 |" in text
    assert "| method | trained below the heads | sst2, 600 | mean - full |" in text
    assert "- sst2, 600, adalora-all-2: ranks 1 .. 3, 4 in all at 2 places" in text
    assert "diverged" in text
    table.draw(tree, tmp_path / "tuning.svg")
    page = table.with_tables(f"Text.\n\n{table.MARKER}\n\nold\n", [tree, {"runs": {}}])
    assert page.startswith("Text.")
    assert "old" not in page
    assert page.count("| full | 100.00% |") == page.count("![Scores over trained parameters](tuning-") == 1
    assert table.with_tables(page, [tree]) == page
    assert text in benchmarks.page.section(tree)
    assert (tmp_path / "tuning.svg").stat().st_size > 9000


def test_methods_and_names() -> None:
    for method in METHODS.values():
        ((name, settings),) = method.tune.items()
        find_method(name, settings)
    assert {name for method in METHODS.values() for name in method.tune} == set(variants("tune")) - {
        "sparse"
    }  # for pruned models
    assert list(find_methods(("full", "ia3"))) == ["full", "ia3"]
    with pytest.raises(UsageError, match="did you mean 'frozen'"):
        find_methods(("frosen",))
    one, other = (Order("sst2", "full", rate, 0, "a/b/c") for rate in (1e-3, 1e-4))
    assert key_of(one) != key_of(other)
    assert {sets.model_of(name) for name in sets.NAMES} == {"en", "zh", "decoder"}


def test_a_run_on_labelled_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bert(tmp_path / "model", word_tokenizer())
    monkeypatch.setattr(labelled, "find_set", lambda name: TINY)
    monkeypatch.setattr(one, "length_of", lambda name: sets.Length(1, 16, 16))
    result = one.run(Order("sst2", "frozen", 1e-3, 0, str(tmp_path / "model"), develop=True))
    assert 0 <= result["score"] <= 100
    assert result["learned_below_heads"] == 0 < result["learned"] < result["parameters"]
    json.dumps(result)


def test_a_run_on_dialogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gpt2(tmp_path / "model", byte_tokenizer())
    texts = [{"text": f"{n} the cat ate a hat.\nSummary: cat"} for n in range(40)]
    monkeypatch.setattr(one, "dialogues", lambda: Split(texts, texts[:8]))
    monkeypatch.setattr(one, "length_of", lambda name: sets.Length(1, 8, 32))
    result = one.run(Order("dialogsum", "lora-qv-2", 1e-3, 0, str(tmp_path / "model"), limit=24))
    assert 0 <= result["score"] < 100
    assert result["train"] == 24
    assert result["learned_below_heads"] == 2 * 2 * 2 * (32 + 32)
