"""Tagging: learned, saved, used and scored without a flag; every tokenizer, scheme and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import pretune
from pretune.cli import main
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.evaluate.engine import predict_examples
from pretune.model import Model
from pretune.tasks.shared.records import read_examples
from pretune.tasks.shared.unit_tags import UnitTags
from pretune.tasks.shared.units import Units
from pretune.tasks.tagging import Tagging
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.samples.rows import data_stats
from pretune.text.tokenizer.tokenizer import Tokenizer
from tests.train.trainkit import SHAPE, WORDS, make_tokenizer


def rows(count: int, seed: int, length: tuple[int, int] = (3, 12)) -> list[dict[str, Any]]:
    """Words below 10 are first names, which begin a person; those below 20 are last names, which go on with one."""
    rng = np.random.default_rng(seed)
    out: list[dict[str, Any]] = []
    for _ in range(count):
        numbers = rng.integers(0, 40, int(rng.integers(*length))).tolist()
        tags, is_open = list[str](), False
        for number in numbers:
            is_open = number < 10 or (number < 20 and is_open)
            tags.append("B-PER" if number < 10 else "I-PER" if is_open else "O")
        words = [
            WORDS[number if number >= 20 or tag != "O" else number + 20]
            for number, tag in zip(numbers, tags, strict=True)
        ]
        out.append({"tokens": words, "tags": tags})
    return out


def recipe(folder: Path, name: str, **task: object) -> dict[str, Any]:
    return {
        "output": str(folder / name),
        "task": {"tagging": task},
        "data": {"tokenizer": str(folder / "tokenizer"), "length": 16},
        "model": {"size": "tiny", "overrides": SHAPE},
        "budget": {"steps": 60},
        "optimizer": {"lr": 5e-3},
        "evaluation": {"every": 60},
        "device": "cpu",
        "precision": "fp32",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tagging")
    make_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Model:
    train = folder / "train.jsonl"
    train.write_text("\n".join(map(json.dumps, [*rows(200, 0), {"tokens": ["w1", "w2"], "tags": ["O"]}])))
    tree = recipe(folder, "softmax")
    tree["data"]["columns"] = {"on_bad": "skip"}
    tree["data"]["train"] = [str(train)]
    pretune.finetune(tree, validation=rows(30, 1))
    return pretune.load(folder / "softmax", device="cpu", precision="fp32")


def test_it_learns_and_is_used_without_a_flag(trained: Model, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = trained.evaluate(rows(30, 1))
    assert min(scores[name] for name in ("f1", "f1/PER", "f1_type", "f1_macro", "accuracy")) > 0.9
    assert scores["count/PER"] == sum(tag == "B-PER" for row in rows(30, 1) for tag in row["tags"])
    prediction = trained.predict("w30 w3 w12 w25 w5")
    assert [{name: span[name] for name in ("start", "end", "label", "text")} for span in prediction["spans"]] == [
        {"start": 4, "end": 10, "label": "PER", "text": "w3 w12"},
        {"start": 15, "end": 17, "label": "PER", "text": "w5"},
    ]
    assert all(0.5 < span["probability"] <= 1 for span in prediction["spans"])
    record = {"tokens": ["w30", "w3", "w12", "w25", "w5"]}
    assert trained.predict([record]) == [prediction | {"tags": ["O", "B-PER", "I-PER", "O", "B-PER"]}]
    assert trained.predict(["w3", "w30"]).table().rows[0] == ["w3", "w3 (PER)"]
    capsys.readouterr()
    assert main(["predict", f"{folder}/softmax", "w30 w3 w12 w25 w5", "--quiet", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["spans"][1]["text"] == "w5"
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, rows(30, 1))))
    assert main(["evaluate", f"{folder}/softmax", f"{folder}/held.jsonl", "--quiet", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == scores.keys()
    assert "by label" in str(scores)
    flags = ["--errors", f"{folder}/errors.csv", "--quiet", "--device", "cpu"]
    assert main(["evaluate", f"{folder}/softmax", f"{folder}/held.jsonl", *flags]) == 64
    assert "predictions of tagging are no labels that are right or wrong" in capsys.readouterr().err


def test_a_skipped_record_is_counted_in_the_facts_of_the_run(trained: Model, folder: Path) -> None:
    statistics = json.loads((folder / "softmax" / "data_stats.json").read_text())
    assert statistics["train"]["records_skipped"] == 1
    assert statistics["train"]["examples"] == 200
    assert json.loads((folder / "softmax" / "run.json").read_text())["labels"] == ["PER"]
    assert "Scores by label" in (folder / "softmax" / "report.html").read_text()


def test_the_model_is_one_of_transformers_and_theirs_are_read(trained: Model, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    trained.export(exported)
    theirs = transformers.BertForTokenClassification.from_pretrained(exported)
    assert list(theirs.config.id2label.values()) == ["O", "B-PER", "I-PER"]
    theirs.save_pretrained(tmp_path / "bare")
    trained.tokenizer.save(tmp_path / "bare")
    foreign = pretune.load(tmp_path / "bare", device="cpu", precision="fp32")
    assert foreign.task().name == "tagging"
    assert foreign.predict("w30 w3 w12")["spans"][0]["text"] == "w3 w12"
    assert foreign.evaluate(rows(30, 1))["f1"] == trained.evaluate(rows(30, 1))["f1"]


def test_a_long_text_is_read_in_windows_and_each_word_is_scored_once(trained: Model) -> None:
    long = rows(6, 2, (40, 60))
    task = trained.task()
    examples = read_examples(task, long)
    encoded = task.encode(examples, trained.tokenizer, 16)
    stats = data_stats(encoded)
    assert (stats["examples"], stats["tokens_cut"]) == (6, 0)
    assert stats["rows"] > 18
    predictions = predict_examples(trained.network, task, examples, encoded, trained.tokenizer, budget=40)
    assert [len(prediction["tags"]) for prediction in predictions] == [len(row["tokens"]) for row in long]
    assert task.score(predictions, examples)["f1"] > 0.85
    assert trained.predict(long) == predictions


def test_a_text_that_fits_is_the_same_with_and_without_windows(trained: Model) -> None:
    short = rows(20, 3)
    assert trained.predict(short) == trained.predict(short, truncate="head")


def test_a_crf_learns_and_is_saved(folder: Path) -> None:
    tree = recipe(folder, "crf", decoder="crf") | {"track": {"report": False}}
    tree["budget"]["steps"] = 40
    pretune.finetune(tree, train=rows(200, 0), validation=rows(30, 1))
    model = pretune.load(folder / "crf", device="cpu", precision="fp32")
    assert model.evaluate(rows(30, 1))["f1"] > 0.7
    crf = model.network.heads["token_classification_crf"]
    assert float(crf.between.detach().abs().sum()) > 0
    spans = model.predict("w30 w3 w12 w25 w5")["spans"]
    assert len(spans) >= 2
    assert all(0 < span["probability"] <= 1 for span in spans)
    theirs, info = transformers.BertForTokenClassification.from_pretrained(folder / "crf", output_loading_info=True)
    assert torch.equal(theirs.classifier.weight, model.network.heads["token_classification"].linear.weight)
    assert not info["missing_keys"]
    assert {name.split(".")[-1] for name in info["unexpected_keys"]} == {
        "first",
        "between",
        "last",
    }  # of no class theirs
    assert all(name.startswith("heads.token_classification_crf.") for name in info["unexpected_keys"])


def test_it_learns_every_scheme_and_plain_tags(folder: Path) -> None:
    plain = [
        {"tokens": row["tokens"], "tags": ["NN" if t == "O" else "NNP" for t in row["tags"]]} for row in rows(150, 0)
    ]
    tree = recipe(folder, "plain") | {"track": {"report": False}}
    tree["budget"]["steps"] = 20
    model = pretune.finetune(tree, train=plain, validation=plain[:30])
    scores = model.evaluate(plain[:30])
    assert scores["accuracy"] == pytest.approx(scores["f1"])
    assert scores["accuracy"] > 0.8
    assert {"f1/NN", "f1/NNP"} < scores.keys()
    assert model.task().brief(model.predict("w30 w31"))["spans"] == "w30/NN w31/NN"


def task_of(tokenizer: Tokenizer, data: list[dict[str, Any]], **config: Any) -> tuple[Tagging, list[Any]]:
    reader = Tagging(Tagging.Config(**config), tokenizer.vocabulary)
    examples = read_examples(reader, data)
    return Tagging(reader.resolve_config(examples), tokenizer.vocabulary), examples


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB1", ["O", "I-A", "I-A", "B-A", "I-B", "O"]),
        ("IOB2", ["O", "B-A", "I-A", "B-A", "B-B", "O"]),
        ("IOBES", ["O", "B-A", "E-A", "S-A", "S-B", "O"]),
        ("BMES", ["O", "B-A", "E-A", "S-A", "S-B", "O"]),
    ],
)
def test_targets_are_the_tags_of_the_scheme_for_words_and_for_spans(folder: Path, scheme: str, tags: list[str]) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer")
    words = ["w1", "w2", "w3", "w4", "w5", "w6"]
    spans = [[3, 8, "A"], [9, 11, "A"], [12, 14, "B"]]
    for record in ({"tokens": words, "tags": tags}, {"text": " ".join(words), "spans": spans}):
        task, examples = task_of(tokenizer, [record], scheme=scheme, read_scheme=scheme)
        (row,) = task.encode(examples, tokenizer, 16)
        assert row.targets is not None
        assert [task.labels[n] for n in row.targets[:, 0]] == tags
        batch = task.prepare(task_rows(task, [row]), Draw(0))
        assert batch.targets["tagging"][1].tolist() == row.targets[:, 0].tolist()
        assert batch.targets["tagging"][0].tolist() == [0, 1, 2, 3, 4, 5]


def task_rows(task: Tagging, encoded: list[Any]) -> list[Any]:
    from pretune.text.samples.examples import ExampleView

    return ExampleView(encoded).read(np.arange(len(encoded)), 0, 0, Draw(0))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"text": "w1 w2 w3", "spans": [[0, 5, "A"], [3, 8, "B"]]},
            r"list\[0\]: spans\[0\] = A at 0 to 5, 'w1 w2' overlaps spans\[1\] = B at 3 to 8.*use --task nested",
        ),
        (
            {"tokens": ["w1", "w2"], "tags": ["B-A", "I-B"]},
            r"list\[0\]: tags\[1\] = 'I-B' of 'w2' behind 'B-A', which IOB2 does not allow; correct the tag",
        ),
        ({"tokens": ["w1"], "tags": ["I-A"]}, r"tags\[0\] = 'I-A' of 'w1' at the beginning, which IOB2 does not"),
        (
            {"tokens": ["w1", "w2"], "tags": ["B-A", "X-A"]},
            r"tags\[1\] = 'X-A' of 'w2' behind 'B-A', which IOB2 does not",
        ),
        ({"text": "w1", "spans": [[0, 9, "A"]]}, r"'spans\[0\]' = 0 to 9 lies outside the text"),
        ({"text": " "}, r"field 'text' = ' ' is empty"),
        ({"text": "w1"}, r"no field 'spans'"),
    ],
)
def test_bad_records_are_named(folder: Path, record: dict[str, Any], words: str) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer")
    with pytest.raises(DataError, match=words):
        task_of(tokenizer, [record], read_scheme="IOB2")


def test_bad_data_are_named(folder: Path, trained: Model) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer")
    with pytest.raises(DataError, match=r"list: no span has a label; give some records spans"):
        task_of(tokenizer, [{"text": "w1", "spans": []}])
    with pytest.raises(DataError, match=r"list\[1\]: tags\[0\] = 'I-A' of 'w1' at the beginning, which IOB2"):
        task_of(tokenizer, [{"tokens": ["w1"], "tags": ["B-A"]}, {"tokens": ["w1"], "tags": ["I-A"]}])
    with pytest.raises(
        DataError, match=r"list\[1\]: tags\[1\] = 'person' of 'w2' behind 'O', which IOB2 does not allow"
    ):
        task_of(
            tokenizer,
            [{"tokens": ["w1", "w2"], "tags": ["B-A", "I-A"]}, {"tokens": ["w1", "w2"], "tags": ["O", "person"]}],
        )
    with pytest.raises(
        DataError, match=r"list\[0\]: span LOC at 0 to 2, 'w1': the label was not seen in training; known"
    ):
        trained.evaluate([{"text": "w1", "spans": [[0, 2, "LOC"]]}])
    bad = [{"tokens": ["w1", "w2"], "tags": ["O", "I-A"]}, {"tokens": ["w1", "w2"], "tags": ["B-A", "I-A"]}]
    columns = LabelledConfig(on_bad="skip")
    _, examples = task_of(tokenizer, bad, read_scheme="IOB2", columns=columns)
    assert len(examples) == 1


def trained_tokenizer(name: str) -> Tokenizer:
    """A small tokenizer of a type that models have, whose tokens are parts of words, bytes, or several characters."""
    texts = [
        "Angela Merkel was in Paris, they said.",
        "默克尔在北京大学 said hello",
        "naïve café 東京 1998",
        "don't stop!",
    ] * 20
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer: Any
    if name == "wordpiece":
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
        backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
        backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    elif name == "bytes":
        backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        backend.decoder = tokenizers.decoders.ByteLevel()  # type: ignore[assignment]
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    else:
        backend = tokenizers.Tokenizer(tokenizers.models.Unigram())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()  # type: ignore[assignment]
        trainer = tokenizers.trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="[UNK]")
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, {f"{token.strip('[]').lower()}_token": token for token in special})


@pytest.mark.parametrize("name", ["wordpiece", "bytes", "unigram"])
@pytest.mark.parametrize("units", ["words", "tokens"])
def test_spans_come_back_from_their_tags_with_every_tokenizer(name: str, units: str) -> None:
    tokenizer = trained_tokenizer(name)
    data = [
        {"text": "Angela Merkel was in Paris, they said.", "spans": [[0, 13, "PER"], [21, 26, "LOC"]]},
        {"text": "默克尔在北京大学 said 😀 hello", "spans": [[0, 3, "PER"], [9, 13, "VERB"], [14, 15, "EMO"]]},
        {"text": "naïve café", "spans": [[6, 10, "LOC"]]},
    ]
    task, examples = task_of(tokenizer, data, scheme="IOBES", units=units)
    rows = task_rows(task, task.encode(examples, tokenizer, 64))
    for row, example in zip(rows, examples, strict=True):
        each = Units.of(row.offsets[0], row.targets[:, 1] == 1)
        answer = UnitTags(each.start, each.end, row.targets[each.first, 0].tolist(), [1.0] * len(each.first))
        spans = task.merge(example, [answer])["spans"]
        assert [(s["start"], s["end"], s["label"]) for s in spans] == [(s.start, s.end, s.label) for s in example.spans]


@pytest.mark.parametrize("labels", [("O", "I-A", "B-A", "I-B", "B-B"), ("B-A", "B-B", "I-A", "I-B", "O")])
def test_labels_of_a_foreign_model_in_any_order_are_iob2(folder: Path, labels: tuple[str, ...]) -> None:
    task = Tagging(Tagging.Config(labels=labels), Tokenizer.load(folder / "tokenizer").vocabulary)
    assert task.scheme == "IOB2"
    assert sorted(task.score_labels) == ["A", "B"]


def test_words_that_share_a_token_are_in_the_same_span_and_one_without_tokens_in_none(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer")
    record = {"tokens": ["a", "b", "c", "d"], "tags": ["S-X", "O", "O", "S-X"]}
    task, examples = task_of(tokenizer, [record], scheme="IOBES", read_scheme="IOBES")
    single = task.labels.index("S-X")
    answer = UnitTags(np.array([0, 4]), np.array([3, 5]), [single, 0], [1.0, 1.0])
    prediction = task.merge(examples[0], [answer])
    assert prediction["tags"] == ["B-X", "E-X", "O", "O"]
    assert [(span["start"], span["end"]) for span in prediction["spans"]] == [(0, 3)]


def test_the_words_of_chinese_are_spans_of_bare_tags(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer")
    task, examples = task_of(tokenizer, [{"tokens": list("我们爱北京"), "tags": list("BESBE")}])
    assert (task.labels, task.score_labels, task.scheme) == (["B", "M", "E", "S"], ["word"], "BMES")
    places = np.arange(5)
    prediction = task.merge(examples[0], [UnitTags(places, places + 1, [0, 2, 3, 0, 2], [0.5, 1.0, 1.0, 1.0, 1.0])])
    assert [(span["text"], span["probability"]) for span in prediction["spans"]] == [
        ("我们", 0.75),
        ("爱", 1),
        ("北京", 1),
    ]
    assert task.score([prediction], examples)["f1"] == 1


def test_the_command_line_names_bad_records(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "bad.conll"
    path.write_text("w1 B-A\nw2 I-A\n\nw1 O\nw2 I-A\n")
    flags = ["--model.size", "tiny", "--data.tokenizer", f"{folder}/tokenizer", "--output", f"{folder}/none", "--quiet"]
    assert main(["finetune", "--task", "tagging", "--train", str(path), *flags]) == 65
    assert "bad.conll:4: tags[1] = 'I-A' of 'w2' behind 'O', which IOB2 does not allow" in capsys.readouterr().err
