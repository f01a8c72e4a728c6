"""A tagging task in one file outside of pretune: trained, saved, loaded, predicted with, evaluated and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pretune
from pretune.batch import ragged
from pretune.cli import main
from pretune.errors import DataError, MissingInputError
from pretune.evaluate.engine import predict_examples
from pretune.model import Model
from pretune.tasks.shared.records import read_examples
from pretune.text.samples.rows import data_stats
from tests.train.trainkit import SHAPE, WORDS, make_tokenizer

TAGGING = Path(__file__).parent / "tagging.py"


def rows(count: int, seed: int, length: tuple[int, int] = (3, 12)) -> list[dict[str, Any]]:
    """Words below 10 are first names, which begin a person; those below 20 are last names, which go on with one."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        numbers = rng.integers(0, 40, int(rng.integers(*length))).tolist()
        tags = ["B-PER" if number < 10 else "I-PER" if number < 20 else "O" for number in numbers]
        out.append({"words": [WORDS[number] for number in numbers], "tags": tags})
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A run from the command line."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tagging")
    shutil.copy(TAGGING, folder / "tagging.py")
    make_tokenizer(folder / "tokenizer")
    for name, part in (("train", rows(200, 0)), ("held", rows(30, 1))):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)) + "\n")
    words = ["finetune", "--task", f"{folder}/tagging.py", "--data.train", f"{folder}/train.jsonl"]
    words += ["--data.validation", f"{folder}/held.jsonl", "--data.tokenizer", f"{folder}/tokenizer"]
    words += ["--model.size", "tiny", "--data.length", "16", "--budget.steps", "100", "--optimizer.lr", "3e-3"]
    for name, value in SHAPE.items():
        words += [f"--model.overrides.{name}", str(value)]
    words += ["--device", "cpu", "--precision", "fp32", "--output", f"{folder}/run", "--quiet", "--no-allocator"]
    assert main(words) == 0
    return folder, pretune.load(folder / "run", device="cpu", precision="fp32")


def test_it_learns_and_is_used_without_a_flag(trained: tuple[Path, Model], capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = trained
    scores = model.evaluate(folder / "held.jsonl")
    assert scores["f1"] > 0.95
    assert model.evaluate(rows(30, 1)) == scores
    prediction = model.predict("w30 w3 w12 w40 w5")
    assert prediction == {
        "spans": [
            {"start": 4, "end": 10, "label": "PER", "text": "w3 w12"},
            {"start": 15, "end": 17, "label": "PER", "text": "w5"},
        ],
        "tags": ["O", "B-PER", "I-PER", "O", "B-PER"],
    }
    assert model.predict([{"words": ["w30", "w3", "w12", "w40", "w5"]}]) == [prediction]
    capsys.readouterr()
    assert main(["predict", f"{folder}/run", "w30 w3 w12 w40 w5", "--quiet", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == {"words": "w30 w3 w12 w40 w5", **prediction}
    assert main(["evaluate", f"{folder}/run", f"{folder}/held.jsonl", "--quiet", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == scores.keys()


def test_a_long_text_has_many_rows_and_one_prediction(trained: tuple[Path, Model]) -> None:
    _, model = trained
    long = rows(6, 2, (40, 60))
    task = model.task()
    examples = read_examples(task, long)
    encoded = task.encode(examples, model.tokenizer, 16)
    stats = data_stats(encoded)
    assert (stats["examples"], stats["examples_cut"], stats["tokens_cut"]) == (6, 0, 0)
    assert stats["rows"] > 18
    assert stats["tokens"] == sum(len(row["words"]) for row in long)
    assert stats["tokens_repeated"] == sum(row.repeated for row in encoded) > 0
    predictions = predict_examples(model.network, task, examples, encoded, model.tokenizer, budget=40)
    assert [len(prediction["tags"]) for prediction in predictions] == [len(row["words"]) for row in long]
    assert task.score(predictions, examples)["f1"] > 0.9
    assert model.predict(long) == predictions


def test_the_head_is_saved_found_again_and_that_of_transformers(trained: tuple[Path, Model], tmp_path: Path) -> None:
    folder, model = trained
    exported = tmp_path / "exported"
    model.export(exported)
    again = pretune.load(exported, device="cpu", precision="fp32")
    assert again.evaluate(folder / "held.jsonl") == model.evaluate(folder / "held.jsonl")
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, dict(again.network.named_parameters())[name]), name
    theirs, info = transformers.BertForTokenClassification.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert list(theirs.config.id2label.values()) == model.task().labels
    tokens, _ = model.tokenizer.vocabulary.add_special_tokens(model.tokenizer.encode("w30 w3 w12 w40 w5"))
    with torch.no_grad():
        logits = theirs.eval()(torch.from_numpy(tokens)[None]).logits[0]
        ours = model.network.heads["token_classification"](model.network(ragged([tokens])).last_hidden_state)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    tags = [theirs.config.id2label[n] for n in logits[1:-1].argmax(1).tolist()]
    assert tags == model.predict("w30 w3 w12 w40 w5")["tags"]


def test_a_file_that_changed_or_is_gone_is_refused(trained: tuple[Path, Model], tmp_path: Path) -> None:
    folder, _ = trained
    own, text = folder / "tagging.py", (folder / "tagging.py").read_text()
    try:
        own.write_text(text + "\n")
        with pytest.raises(DataError, match=r"tagging\.py.*the file has changed since the model was saved"):
            pretune.load(folder / "run", device="cpu")
        own.unlink()
        with pytest.raises(MissingInputError, match=r"tagging\.py.*gone.*put it back"):
            pretune.load(folder / "run", device="cpu")
    finally:
        own.write_text(text)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"words": ["a"]}, r"list\[0\]: no field 'tags'; set tags_column"),
        ({"words": ["a", "b"], "tags": ["O"]}, r"list\[0\]: field 'tags' has 1 tags for 2 words; give each word one"),
        ({"words": ["w1"], "tags": ["B-LOC"]}, r"list\[0\]: tag 'B-LOC' was not seen in training"),
        ({"words": [3], "tags": ["O"]}, r"list\[0\]: field 'words\[0\]' holds the number 3, not text"),
        ({"words": [], "tags": []}, r"list\[0\]: field 'words' has no words"),
    ],
)
def test_bad_records_are_named(trained: tuple[Path, Model], record: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        trained[1].evaluate([record])
