"""Rerankers: how records are read and joined, batches drawn, and files read by `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.cli import main
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.tasks.reranking import Reranking
from pretune.tasks.shared.ranking_records import RankingExample
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import data_stats

WORDS = word_tokenizer()
NOUNS = ["fox", "dog", "cat", "hat"]
FIELDS: dict[str, Any] = {
    "steps": 60,
    "batch": 4,
    "length": 24,
    "lr": 5e-3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "evaluation": {"every": 60},
    "track": {"report": False, "progress": "quiet"},
}


def pairs() -> list[dict[str, object]]:
    """Each query with a relevant passage, which begins with a word of its own kind, and one that is not."""
    out: list[dict[str, object]] = []
    for n in range(16):
        query = f"the {NOUNS[n % 4]} {'jumps' if n < 8 else 'ate'} {'over ' * (n // 4 % 2)}"
        out.append({"query": query, "passage": f"quick {NOUNS[n % 4]}", "label": 1})
        out.append({"query": query, "passage": f"lazy {NOUNS[(n + 1) % 4]}", "label": 0})
    return out


COLUMNS = {"text": "query", "second": "passage"}


def task(columns: dict[str, str] | None = None, **fields: Any) -> Reranking:
    config = Reranking.Config(columns=LabelledConfig(**(columns or COLUMNS)), **fields)
    return Reranking(config, WORDS.vocabulary)


def read(*records: dict[str, object], **columns: str) -> list[RankingExample]:
    return read_examples(task({**COLUMNS, **columns}), list(records))


def train(folder: Path, *, steps: int = 60, **fields: Any) -> Path:
    save_bert(folder / "bert", WORDS)
    data = {"train": pairs(), "validation": pairs(), "data": {"length": 24, "columns": COLUMNS}}
    settings = {key: value for key, value in FIELDS.items() if key != "length"} | {"steps": steps}
    pretune.finetune(
        model=str(folder / "bert"), task={"reranking": fields}, output=str(folder / "run"), **data, **settings
    )
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("reranking"), random_negatives=0)


def test_records_of_a_query_become_one_list() -> None:
    first, second = read(
        {"query": "a fox", "passage": "fox", "label": 1},
        {"query": "a dog", "passage": "dog", "label": "0.5"},
        {"query": "a fox", "passage": "hat", "label": 0},
        {"query": "a fox", "passage": "fox", "label": 1},
    )
    assert (first.text, first.passages, first.grades) == ("a fox", ("fox", "hat"), (1.0, 0.0))
    assert (second.passages, second.grades, second.second) == (("dog",), (0.5,), "dog")


def test_lists_and_triplets_are_read() -> None:
    record: dict[str, object] = {"query": "a fox", "passage": "fox", "others": ["hat", "[1] dog"]}
    (example,) = read(record, third="others")
    assert (example.passages, example.grades) == (("fox", "hat", "[1] dog"), (1.0, 0.0, 0.0))
    (example,) = read({**record, "label": [3.5, -1, 0]}, third="others")
    assert example.grades == (3.5, -1.0, 0.0)
    (example,) = read({"query": "a fox", "passage": '["fox", "hat"]', "label": [1, 0]})
    assert example.passages == ("fox", "hat")
    (example,) = read({**record, "others": "[2] hat"}, third="others")
    assert example.passages == ("fox", "[2] hat")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"label": "good"}, r"list\[0\]: label 'good' in field 'label' is not a finite number; write how relevant"),
        ({"label": [1, 0]}, r"list\[0\]: field 'label' has 2 labels for 1 passages"),
        ({"passage": " "}, r"list\[0\]: field 'passage' = ' ' is empty"),
        ({"passage": ["fox", ""], "label": [1, 0]}, r"list\[0\]: field 'passage\[1\]' = '' is empty"),
        ({"passage": []}, r"list\[0\]: field 'passage' is a list without passages"),
        ({"passage": 3}, r"list\[0\]: field 'passage' holds the number 3, not a list of texts"),
        ({"label": None}, r"list\[0\]: label in field 'label' is empty"),
        ({"query": ""}, r"list\[0\]: field 'query' = '' is empty"),
    ],
)
def test_bad_records(record: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read({"query": "a fox", "passage": "fox", "label": 1, **record})


def test_a_passage_with_two_labels_is_refused() -> None:
    records = [{"query": "a fox", "passage": "fox", "label": n} for n in (1, 0)]
    with pytest.raises(DataError, match=r"list\[1\]: label 0 for a passage that has 1 .* at list\[0\]: 'fox'"):
        read(*records)
    with pytest.raises(DataError, match="a reranker reads a query and a passage; name the column"):
        read_examples(task({"text": "query"}), records)


@pytest.mark.parametrize(
    ("passages", "grades", "message"),
    [
        (
            ("fox",),
            (1.0,),
            "query 'a fox' has one passage, so that this loss compares nothing; add a passage that is n",
        ),
        (("fox", "hat"), (0.0, 0.0), "has 2 passages, all with label 0, .* add a passage that is relevant, remove"),
    ],
)
def test_a_list_that_compares_nothing_is_refused(
    passages: tuple[str, ...], grades: tuple[float, ...], message: str
) -> None:
    examples = [RankingExample("a fox", passages, grades), RankingExample("a dog", ("dog", "hat"), (1.0, 0.0))]
    with pytest.raises(DataError, match=message):
        task(loss="softmax", random_negatives=0).resolve_config(examples)
    with pytest.raises(DataError, match="so that no order of them is better than another"):
        task().score([{"scores": [0.0] * len(passages)}, {"scores": [1.0, 0.0]}], examples)


@pytest.mark.parametrize("grade", [0.0, 1.0])
def test_labels_that_are_all_the_same_teach_nothing(grade: float) -> None:
    query = RankingExample("a fox", ("fox", "hat"), (grade, grade))
    with pytest.raises(
        DataError, match=f"all 2 labels are {grade:g}, so that there is nothing to learn; give passages"
    ):
        task().resolve_config([query])
    other = RankingExample("a dog", ("dog", "hat"), (1.0, 1.0))
    assert task().resolve_config([query, other]).random_negatives, "passages of the other query are drawn as 0"


@pytest.mark.parametrize(
    ("grades", "loss", "negatives"),
    [
        ([(1.0, 0.0), (0.0, 1.0)], "softmax", 2),
        ([(1.0, 1.0), (0.0, 1.0)], "softmax", 2),
        ([(0.0, 0.0), (0.0, 1.0)], "bce", 2),
        ([(0.25, 0.25), (0.5, 1.0)], "bce", 0),
        ([(0.25, 0.75), (0.5, 1.0)], "softmax", 0),
        ([(-2.5, 7.25), (3.0, 1.0)], "mse", 0),
    ],
)
def test_labels_decide_the_loss(grades: list[tuple[float, ...]], loss: str, negatives: int) -> None:
    examples = [RankingExample(f"a {NOUNS[n]}", ("fox", "hat"), each) for n, each in enumerate(grades)]
    config = task().resolve_config(examples)
    assert (config.loss, config.random_negatives) == (loss, negatives)
    assert config.activation == ("sigmoid" if loss == "bce" else "identity")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "sofmax"}, "no variant 'sofmax'; did you mean 'softmax'"),
        ({"loss": {"bce": {"weight": 2}}}, "task.reranking.loss.bce"),
        ({"loss": {"bce": {}, "mse": {}}}, "expected one loss, got 2"),
        ({"truncate": "windows"}, "a passage has one score"),
        ({"random_negatives": 3}, "they would get the label 0, and these labels are scores from 0.25 to 1"),
    ],
)
def test_bad_settings(fields: dict[str, Any], message: str) -> None:
    examples = [RankingExample(f"a {noun}", ("fox", "hat"), (0.25, 1.0)) for noun in NOUNS]
    with pytest.raises(UsageError, match=message):
        task(**fields).resolve_config(examples)


def test_probabilities_are_wanted_of_cross_entropy() -> None:
    with pytest.raises(DataError, match="a label of 3, and this loss takes probabilities"):
        task(loss="bce").resolve_config([RankingExample("a fox", ("fox", "hat"), (3.0, 0.0))])


def rows_of(reranker: Reranking, epoch: int = 0) -> list[Any]:
    examples = read_examples(reranker, pairs())
    encoded = reranker.encode(examples, WORDS, 24)
    reranker.use_training_rows(encoded)
    return ExampleView(encoded).read(np.arange(len(encoded)), 0, epoch, Draw(0))


def test_random_negatives_are_drawn_by_the_key_of_the_sample_alone() -> None:
    reranker = task(loss="softmax", random_negatives=1)
    rows, other_epoch = rows_of(reranker), rows_of(reranker, 1)
    together = reranker.build_batch(rows, Draw(3), step=0)
    assert together.layout.count == 3 * 16
    alone = [reranker.build_batch([row], Draw(3), step=7) for row in rows]
    assert torch.equal(together.tokens, torch.cat([batch.tokens for batch in alone]))
    assert not torch.equal(together.tokens, reranker.build_batch(other_epoch, Draw(3), step=0).tokens)
    _, grades = together.targets["reranking"]
    assert grades.view(16, 3).tolist() == [[1.0, 0.0, 0.0]] * 16
    for row, batch in zip(rows, alone, strict=True):
        passages = {text.tobytes() for text in row.choices}
        assert batch.tokens[batch.layout.bounds[2] + 1 + len(row.tokens) + 1 : -1].numpy().tobytes() not in passages
    assert reranker.build_batch(rows, Draw(3)).layout.count == 2 * 16  # none in evaluation


def test_long_lists_are_drawn_from() -> None:
    reranker = task(loss="softmax", random_negatives=0, max_passages=2)
    texts = ("fox", "dog", "cat", "hat", "the lazy dog")
    encoded = reranker.encode([RankingExample("a fox", texts, (0.0, 0.0, 1.0, 0.0, 0.0))], WORDS, 24)
    seen = set()
    for epoch in range(20):
        (row,) = ExampleView(encoded).read(np.arange(1), 0, epoch, Draw(0))
        batch = reranker.build_batch([row], Draw(0), step=0)
        assert sorted(batch.targets["reranking"][1].tolist()) == [0.0, 1.0]
        seen.add(batch.tokens.numpy().tobytes())
    assert len(seen) == 4


def test_each_token_is_counted_once_and_sequences_fit() -> None:
    reranker = task(loss="softmax", random_negatives=2)
    example = RankingExample("a fox " * 5, ("the lazy dog " * 8, "hat"), (1.0, 0.0))
    rows = reranker.encode([example, RankingExample("fox", ("the cat " * 12,), (1.0,))], WORDS, 16)
    stats = data_stats(rows[:1])
    whole = len(WORDS.encode(example.text)) + sum(len(WORDS.encode(text)) for text in example.passages)
    assert stats["tokens"] == whole
    assert stats["tokens_cut"] > 0
    reranker.use_training_rows(rows)
    samples = ExampleView(rows).read(np.arange(2), 0, 0, Draw(0))
    assert max(reranker.build_batch(samples, Draw(0), step=0).layout.lengths) == 16


def test_equal_scores_are_no_success() -> None:
    examples = [RankingExample("a fox", ("fox", "hat"), (1.0, 0.0))]
    scores = task().score([{"scores": [0.5, 0.5]}], examples)
    assert scores["R@1"] == 0.0
    assert scores["RR@10"] == pytest.approx(0.5)
    assert task().score([{"scores": [0.6, 0.5]}], examples)["nDCG@10"] == pytest.approx(1.0)
    graded = [RankingExample("a fox", ("fox", "hat", "dog"), (-1.5, 7.5, 2.25))]
    assert task().score([{"scores": [0.0, 2.0, 1.0]}], graded)["RR@10"] == 1.0


def test_it_learns_and_predicts(trained: Path) -> None:
    model = pretune.load(trained, device="cpu", precision="fp32")
    assert model.evaluate(pairs())["R@1"] > 0.9
    good, bad = model.predict(["the fox jumps", "the fox jumps"], ["quick fox", "lazy hat"])
    assert set(good) == {"score"}
    assert good["score"] > bad["score"]
    (ranked,) = model.predict([{"query": "the fox jumps", "passage": ["lazy hat", "quick fox", "lazy dog"]}])
    assert ranked["ranking"][0] == 1
    assert ranked["scores"][:2] == pytest.approx([bad["score"], good["score"]], abs=1e-5)
    config = json.loads((trained / "model" / "config.json").read_text()) if (trained / "model").is_dir() else {}
    config = config or json.loads((trained / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "LABEL_0"})


def test_transformers_gives_the_same_logits(trained: Path, tmp_path: Path) -> None:
    model = pretune.load(trained, device="cpu", precision="fp32")
    model.export(tmp_path / "out")
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(["the fox jumps"] * 2, ["a fox", "a lazy dog"], return_tensors="pt", padding=True)
    with torch.no_grad():
        wanted = peer(**batch).logits[:, 0].tolist()
    got = [each["score"] for each in model.predict(["the fox jumps"] * 2, ["a fox", "a lazy dog"])]
    assert got == pytest.approx(wanted, abs=1e-5)


def test_predict_and_evaluate_from_the_command_line(trained: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["predict", str(trained), "--pair", "the fox jumps", "a fox", "--json"]) == 0
    assert "score" in json.loads(capsys.readouterr().out)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in pairs()))
    assert main(["evaluate", str(trained), str(path)]) == 0
    assert "nDCG@10" in capsys.readouterr().out


OWN_LOSS = '''
from pretune.tasks.ranking_losses.ranking_loss import RankingLoss


class Half(RankingLoss):
    """Half of the squared error."""

    per_query = False
    compares = False

    def __call__(self, logits, grades, present):
        return (logits.masked_fill(~present, 0.0) - grades).square().sum(dim=1) / 2
'''


def test_a_loss_of_ones_own_trains(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(OWN_LOSS)
    run = train(tmp_path, steps=200, loss=str(tmp_path / "half.py"), random_negatives=0)
    model = pretune.load(run, device="cpu", precision="fp32")
    queries, passages, labels = zip(*((p["query"], p["passage"], p["label"]) for p in pairs()), strict=True)
    scores = [answer["score"] for answer in model.predict([*queries], [*passages])]
    right = np.array(labels, bool)
    assert np.mean(np.array(scores)[right]) == pytest.approx(1.0, abs=0.5)
    assert np.array(scores)[right].min() > np.array(scores)[~right].max()
    assert np.mean((np.array(scores) - labels) ** 2) < 0.25  # that of a score of 0.5 for all
