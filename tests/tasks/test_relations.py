"""Relations of marked pairs: classes in both directions, marks, windows around a pair, official scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import semeval_cases
import torch
from tinymodels import word_tokenizer

import pretune
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.model import Model
from pretune.models import build
from pretune.tasks.relations import NO_RELATION, PairAnswer, Relations
from pretune.tasks.shared.link_predictions import LinkPrediction
from pretune.tasks.shared.marked_pairs import PairMarks, keep_around
from pretune.tasks.shared.records import read_examples
from pretune.text.annotation import Span
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import data_stats
from tests.train.trainkit import SHAPE, make_tokenizer


def toy(count: int, seed: int) -> list[dict[str, Any]]:
    """Two names with a verb between them, which says the relation and its direction; w50 says nothing."""
    random, records = np.random.default_rng(seed), []
    for _ in range(count):
        verb = int(random.integers(47, 51))
        words = [f"w{n}" for n in random.integers(0, 40, int(random.integers(4, 9)))]
        first, second = sorted(random.choice(len(words), 2, replace=False).tolist())
        words.insert(second, f"w{verb}")
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        places = [(int(starts[n]), int(starts[n]) + len(words[n])) for n in (first, second + 1)]
        spans = [{"start": start, "end": end, "label": "name"} for start, end in places]
        ends = {47: [(0, 1, "cause")], 48: [(1, 0, "cause")], 49: [(0, 1, "part")], 50: []}[verb]
        links = [{"head": head, "tail": tail, "label": label} for head, tail, label in ends]
        records.append({"text": " ".join(words), "spans": spans, "links": links})
    return records


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("relations")
    make_tokenizer(folder / "tokenizer")
    recipe = {
        "task": {"relations": {}},
        "data": {"tokenizer": str(folder / "tokenizer"), "length": 24, "batch": 16},
        "model": {"size": "tiny", "overrides": SHAPE},
        "budget": {"steps": 140},
        "evaluation": {"every": 70},
        "optimizer": {"lr": 3e-3},
        "device": "cpu",
        "precision": "fp32",
    }
    pretune.finetune(recipe, train=toy(400, 0), validation=toy(40, 1), output=str(folder / "run"))
    return folder, pretune.load(folder / "run", device="cpu", precision="fp32")


def test_it_learns_relations_and_their_directions(trained: tuple[Path, Model]) -> None:
    _, model = trained
    test = toy(60, 2)
    scores = model.evaluate(test)
    assert scores["f1_macro"] > 0.9
    assert scores["accuracy"] > 0.9
    assert {"f1/cause", "precision/part", "count/cause"} <= scores.keys()
    bare = [{"text": record["text"], "spans": record["spans"]} for record in test]
    predictions = model.predict(bare)
    backward = next(n for n, record in enumerate(test) if record["links"] and record["links"][0]["head"] == 1)
    (link,) = predictions[backward]["links"]
    assert (link["head"], link["tail"], link["label"]) == (1, 0, "cause")
    assert 0.25 < link["probability"] <= 1
    assert predictions[backward]["spans"][0]["text"] in test[backward]["text"]
    again = model.predict(test)  # links are not looked at
    assert [prediction["links"] for prediction in again] == [prediction["links"] for prediction in predictions]


def test_the_head_is_saved_and_exported(trained: tuple[Path, Model], tmp_path: Path) -> None:
    _, model = trained
    model.export(tmp_path / "exported")
    again = pretune.load(tmp_path / "exported", device="cpu", precision="fp32")
    assert again.predict(toy(5, 3)) == model.predict(toy(5, 3))


def test_scores_are_those_of_the_official_scorer() -> None:
    task = Relations(Relations.Config(pairs=(("name", "name"),)), word_tokenizer().vocabulary)
    frozen = json.loads(semeval_cases.SCORES.read_text())
    examples_of = {name: read_examples(task, [record_of(name)])[0] for name in semeval_cases.CLASSES}
    assert len(frozen) == semeval_cases.CASES
    for number, (macro, micro) in enumerate(frozen):
        truth, guess = semeval_cases.case(number)
        scores = task.score([prediction_of(name) for name in guess], [examples_of[name] for name in truth])
        assert 100 * scores["f1_macro"] == pytest.approx(macro, abs=0.00501), number
        known = {name.partition("(")[0] for name in truth}
        if {name.partition("(")[0] for name in guess} <= known:  # the official one takes others for no relation
            assert 100 * scores["f1"] == pytest.approx(micro, abs=0.00501), number


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_every_family_reads_what_has_seen_both_spans(family: str) -> None:
    records = toy(6, 8)
    task, examples = made(records)
    tokenizer = word_tokenizer()
    size = {"vocab_size": tokenizer.vocabulary.size}
    model = build(family, "tiny", task.heads, size).eval()
    rows = ExampleView(task.encode(examples, tokenizer, 60)).read(np.arange(6), 0, 0, Draw(0))
    for n, row in enumerate(rows):  # another word between the two spans changes the scores, whatever the family
        changed = replace(row, tokens=np.where(np.arange(len(row.tokens)) == row.targets[3] + 1, 5, row.tokens))
        scores = []
        for each in (row, changed):
            batch = task.build_batch([each], Draw(0))
            output = model(batch)
            scores.append(task._logits(model, output, batch))
            assert torch.isfinite(task.loss(model, output, batch)[0].sum)
        assert not torch.equal(*scores), n
    answers = task.decode(model, task.build_rows(rows, Draw(0)), tokenizer)
    assert [(answer.first, answer.second) for answer in answers] == [(0, 1)] * 6


def links_of(name: str) -> list[dict[str, Any]]:
    head, tail = (0, 1) if "e1,e2" in name else (1, 0)
    return (
        [] if name == "Other" else [{"head": head, "tail": tail, "label": name.partition("(")[0], "probability": 1.0}]
    )


def record_of(name: str) -> dict[str, Any]:
    spans = [{"start": 0, "end": 1, "label": "name"}, {"start": 2, "end": 3, "label": "name"}]
    return {"text": "a b", "spans": spans, "links": links_of(name)}


def prediction_of(name: str) -> LinkPrediction:
    return {"spans": [], "links": links_of(name)}  # type: ignore[typeddict-item]


def made(records: list[dict[str, Any]], **config: Any) -> tuple[Relations, list[Any]]:
    vocabulary = word_tokenizer().vocabulary
    reader = Relations(Relations.Config(**config), vocabulary)
    examples = read_examples(reader, records)
    return Relations(reader.resolve_config(examples), vocabulary), examples


def test_classes_pairs_and_marks_come_from_the_data() -> None:
    record = {
        "text": "the cat sat on the mat today",
        "spans": [(4, 7, "animal"), (19, 22, "thing"), (23, 28, "time")],
        "links": [{"head": 1, "tail": 0, "label": "under"}],
    }
    task, examples = made([record, {**record, "links": []}])
    assert task.classes == [NO_RELATION, "under(e2,e1)"]
    assert task.config.pairs == (("animal", "thing"),)
    assert task.config.types is True
    assert list(task.candidates(examples[0])) == [(0, 1)]
    rows = task.encode(examples, word_tokenizer(), 64)
    assert [int(row.targets[0]) for row in rows] == [1, 0]  # type: ignore[index]
    batch = task.build_batch(ExampleView(rows).read(np.arange(2), 0, 0, Draw(0)), Draw(0))
    assert task.counts(batch) == {"relations": 2}
    stats = data_stats(rows)
    assert (stats["tokens"], stats["tokens_cut"]) == (2 * len(word_tokenizer().encode(record["text"])), 0)


def test_marks_stand_around_their_spans() -> None:
    tokenizer = word_tokenizer()
    text = "the quick brown fox jumps over the lazy dog"
    tokens, offsets = tokenizer.encode_offsets(text)
    spans = (Span(4, 9, "a"), Span(16, 19, "b"))
    pair = PairMarks(tokenizer, False).mark(tokens, offsets, spans, 60, "here")
    assert pair.cut == 0
    at, hash_ = (tokenizer.encode(f" {mark}") for mark in "@#")
    for n, mark in enumerate((at, hash_)):
        inside = slice(pair.opening[n] + len(mark), pair.closing[n] - len(mark) + 1)
        assert pair.tokens[pair.opening[n] : pair.opening[n] + len(mark)].tolist() == mark.tolist()
        assert offsets_of(pair.offsets[inside]) == (spans[n].start, spans[n].end)
    kept = np.delete(pair.tokens, [i for n in (0, 1) for i in marked(pair, n, len(at))])
    assert kept.tolist() == tokens.tolist()


def offsets_of(part: Any) -> tuple[int, int]:
    return int(part[0, 0]), int(part[-1, 1])


def marked(pair: Any, number: int, size: int) -> list[int]:
    first, last = pair.opening[number], pair.closing[number]
    return [*range(first, first + size), *range(last - size + 1, last + 1)]


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13, 40])
def test_what_is_kept_is_around_both_spans(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(200):
        count = int(random.integers(1, 60))
        first, second = sorted((int(s), int(s) + int(random.integers(1, 4))) for s in random.integers(0, count, 2))
        first, second = ((a, min(b, count)) for a, b in (first, second))
        kept = keep_around(count, first, second, size)
        assert len(kept) <= size
        assert (np.diff(kept) > 0).all()
        assert kept[0] >= 0
        assert kept[-1] < count
        if count <= size:
            assert len(kept) == count
        elif max(first[1], second[1]) - first[0] <= size:
            assert set(range(first[0], max(first[1], second[1]))) <= set(kept.tolist())
            assert len(kept) == size


def test_a_text_that_is_too_long_is_read_around_the_pair() -> None:
    words = [f"w{n}" for n in range(200)]
    text = " ".join(words)
    spans = [
        {"start": text.index(f"{word} "), "end": text.index(f"{word} ") + 3, "label": "name"} for word in ("w90", "w95")
    ]
    record = {"text": text, "spans": spans, "links": [{"head": 0, "tail": 1, "label": "a"}]}
    task, examples = made([record, {**record, "links": []}])
    row = task.encode(examples, word_tokenizer(), 48)[0]
    assert row.size + 2 == 48
    assert row.cut == len(word_tokenizer().encode(text)) - (row.size - 4)
    strict, examples = made([record, {**record, "links": []}], truncate="error")
    with pytest.raises(DataError, match=r"list\[0\]: .* tokens, more than fit; raise the length, or set truncate"):
        strict.encode(examples, word_tokenizer(), 48)
    with pytest.raises(DataError, match=r"list\[0\]: a length that leaves 1 tokens .* is too short; raise the length"):
        task.encode(examples[:1], word_tokenizer(), 7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spans": None}, r"list\[0\]: field 'spans' has no value \(null\)"),
        ({"links": []}, r"list: no links in all records; give spans that have a relation a link"),
        (
            {"links": [(0, 1, "a"), (1, 0, "b")]},
            r"list\[0\]: 'links\[1\]' gives the spans 1 and 0 a second relation, 'b",
        ),
        ({}, r"list: all 1 pairs of spans have the relation 'a\(e1,e2\)'; give pairs with other relations"),
        ({"links": [(0, 0, "a")]}, r"list\[0\]: 'links\[0\]', 'a', leads from span 0 to itself; name two spans"),
        ({"links": [(0, 2, "a")]}, r"list\[0\]: 'links\[0\]\.tail' = '2' is no span of the record"),
    ],
)
def test_bad_records(change: dict[str, Any], words: str) -> None:
    record = {"text": "the cat sat", "spans": [(0, 3, "a"), (4, 7, "a")], "links": [(0, 1, "a")], **change}
    with pytest.raises(DataError, match=words):
        made([record])


def test_a_text_without_a_pair_is_read_and_has_no_relation() -> None:
    record = {"text": "the cat sat", "spans": [(0, 3, "a"), (4, 7, "a")], "links": [(0, 1, "x")]}
    bare = {"text": "the cat", "spans": [(0, 3, "a")], "links": []}
    task, examples = made([record, {**record, "links": []}, bare])
    (note,) = task.training_notes(examples)
    assert note == "pairs of spans that are learned: 2; with one of 1 relation: 1; texts without a pair: 1"
    rows = task.encode(examples, word_tokenizer(), 64)
    assert [row.targets is None for row in rows] == [False, False, True]
    batch = task.build_batch(ExampleView(rows).read(np.arange(3), 0, 0, Draw(0)), Draw(0))
    assert task.counts(batch) == {"relations": 2}
    with pytest.raises(
        DataError, match=r"record\[0\]: no spans; mark the entities in 'spans', or use --task extraction"
    ):
        task.read({"text": "the cat"})
    assert task.merge(examples[2], [PairAnswer(-1, -1, "x(e1,e2)", 0.9)])["links"] == []


def test_a_link_that_the_pairs_leave_out_is_refused() -> None:
    record = {"text": "the cat sat", "spans": [(0, 3, "a"), (4, 7, "b")], "links": [(0, 1, "x")]}
    with pytest.raises(
        DataError, match=r"'links\[0\]', 'x', links 'a' and 'b', which task\.relations\.pairs leaves out"
    ):
        made([record], pairs=(("a", "a"),))


def test_an_unseen_relation_is_refused() -> None:
    record = {"text": "the cat sat", "spans": [(0, 3, "a"), (4, 7, "a")], "links": [(0, 1, "x")]}
    task, _ = made([record, {**record, "links": []}])
    others = read_examples(task, [{**record, "links": [(1, 0, "x")]}])
    with pytest.raises(
        DataError, match=r"list\[0\]: relation 'x\(e2,e1\)' was not seen in training; known: none, x\(e1,e2\)"
    ):
        task.encode(others, word_tokenizer(), 32)
