"""Losses on vectors: equal to those of sentence-transformers 6.2 on the same vectors, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import make_vocabulary
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.losses.matryoshka import shrink
from sentence_transformers.sentence_transformer.losses.triplet import TripletDistanceMetric
from tinymodels import word_tokenizer
from torch import Tensor

from pretune.batch import StepContext, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.models import build
from pretune.objectives.same_texts import DIGEST, MARKS
from pretune.tasks.shared.vector_task import PairExample
from pretune.tasks.similarity import Similarity
from pretune.tasks.vector_losses.vector_loss import VectorTable, build_loss
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Origin, Record
from pretune.text.samples.examples import ExampleView

DRAW = Draw(4)
SHAPE = {"hidden_dropout_prob": 0.0, "max_position_embeddings": 64}
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
ROUNDS = 100  # of each of ten losses: 1,000 cases


def make_table(random: torch.Generator, negatives: int) -> VectorTable:
    """Vectors of a random number of examples, all of whose texts differ."""
    count = int(torch.randint(2, 9, (), generator=random))
    width = int(torch.randint(3, 17, (), generator=random))
    vectors = F.normalize(torch.randn(count, 2 + negatives, width, generator=random, dtype=torch.float64), dim=2)
    marks = torch.full((count, 2 + negatives, MARKS), torch.nan, dtype=torch.float64)
    marks[..., :DIGEST] = torch.arange(count * (2 + negatives)).view(count, -1, 1).expand(-1, -1, DIGEST)
    marks[:, 1:, DIGEST] = torch.randint(0, 6, (count, 1 + negatives), generator=random) / 5
    return VectorTable(vectors, marks, targets=torch.randn(count, width, generator=random, dtype=torch.float64))


def columns(table: VectorTable) -> list[Tensor]:
    return list(table.vectors.unbind(1))


def of(loss: Any) -> Callable[[VectorTable], Tensor]:
    return lambda table: loss.compute_loss_from_embeddings(columns(table), table.scores[:, 0])


NONE = cast(Any, None)
CASES: list[tuple[str, Any, int, Callable[[VectorTable], Tensor]]] = [
    ("contrast", "contrast", 0, of(losses.MultipleNegativesRankingLoss(NONE))),
    ("contrast and hard negatives", "contrast", 3, of(losses.MultipleNegativesRankingLoss(NONE))),
    (
        "contrast both ways",
        {"contrast": {"directions": ["query_to_doc", "doc_to_query"]}},
        2,
        of(losses.MultipleNegativesRankingLoss(NONE, directions=ALL[::2], partition_mode="per_direction")),
    ),
    (
        "contrast in all directions",
        {"contrast": {"directions": list(ALL), "joint": True}},
        1,
        of(losses.MultipleNegativesRankingLoss(NONE, directions=ALL, partition_mode="joint")),
    ),
    ("cosent", "cosent", 0, of(losses.CoSENTLoss(NONE))),
    ("angle", "angle", 0, of(losses.AnglELoss(NONE))),
    ("cosine", "cosine", 0, of(losses.CosineSimilarityLoss(NONE))),
    (
        "triplet",
        {"triplet": {"margin": 0.3}},
        1,
        of(losses.TripletLoss(NONE, distance_metric=TripletDistanceMetric.COSINE, triplet_margin=0.3)),
    ),
    (
        "margin distillation",
        {"margin_distillation": {"scale": 1.0}},
        3,
        lambda table: losses.MarginMSELoss(
            NONE, similarity_fct=lambda a, b: F.cosine_similarity(a, b)
        ).compute_loss_from_embeddings(columns(table), table.scores),
    ),
    (
        "vector distillation",
        "vector_distillation",
        0,
        lambda table: cast(Any, losses.MSELoss(NONE)).compute_loss_from_embeddings(
            columns(table), [F.normalize(cast(Tensor, table.targets), dim=1)] * 2
        ),
    ),
]


@pytest.mark.parametrize(("choice", "negatives", "oracle"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_losses_are_those_of_sentence_transformers(
    choice: Any, negatives: int, oracle: Callable[[VectorTable], Tensor]
) -> None:
    random = torch.Generator().manual_seed(1)
    loss = build_loss(choice)
    for _ in range(ROUNDS):
        table = make_table(random, negatives)
        expected, actual = oracle(table), loss(table).losses
        assert actual.shape == (len(table.vectors),)
        assert float(actual.mean()) == pytest.approx(float(expected), abs=1e-6)


def test_euclidean_triplets() -> None:
    table = make_table(torch.Generator().manual_seed(2), 1)
    actual = build_loss({"triplet": {"margin": 0.3, "distance": "euclidean"}})(table).losses.mean()
    oracle = losses.TripletLoss(NONE, distance_metric=TripletDistanceMetric.EUCLIDEAN, triplet_margin=0.3)
    assert float(actual) == pytest.approx(float(of(oracle)(table)), abs=1e-6)


def examples_of(texts: list[tuple[str, ...]], labels: list[Any] | None = None) -> list[PairExample]:
    """Records as they are read: texts with a second one, perhaps, and negatives."""
    examples: list[PairExample] = []
    for line, text in enumerate(texts):
        record: dict[str, Any] = {"text": text[0]} | ({} if labels is None else {"label": labels[line]})
        record |= {"second": text[1]} if len(text) > 1 else {}
        record |= {"negatives": list(text[2:])} if len(text) > 2 else {}
        names = {"second": "second" if len(text) > 1 else None, "third": "negatives" if len(text) > 2 else None}
        reader = Similarity(Similarity.Config(columns=LabelledConfig(**names)), make_vocabulary())
        examples.append(reader.read(Record(record, Origin("pairs.jsonl", line + 1))))
    return examples


def encoded(texts: list[tuple[str, ...]], labels: list[Any] | None = None, **fields: Any) -> tuple[Similarity, Any]:
    """A task whose configuration is resolved, and the rows of examples."""
    words, examples = word_tokenizer(), examples_of(texts, labels)
    task = Similarity(Similarity.Config(**fields), words.vocabulary)
    task = Similarity(cast(Any, task.resolve_config(examples)), words.vocabulary)
    rows = ExampleView(task.encode(examples, words, 30)).read(np.arange(len(examples)), 0, 0, DRAW)
    return task, rows


TEXTS = [
    ("the quick brown fox", "the fox", "the lazy dog", "a hat"),
    ("the cat ate a hat", "a cat ate", "the brown dog jumps"),
    ("the lazy dog", "a dog jumps over the fox", "the quick cat", "over a hat", "the hat"),
    ("a fox jumps", "the fox jumps over the cat", "a lazy cat"),
]
SCORES = [[3.0, 1.0, 0.5], [2.0, 2.5], [4.0, 1.0, 0.0, -1.0], [1.0, 0.0]]


@pytest.fixture(scope="module")
def model() -> Any:
    return build("bert", "tiny", [], {**SHAPE, "vocab_size": word_tokenizer().vocabulary.size}).eval()


@pytest.mark.parametrize(
    ("choice", "labels"),
    [
        ("contrast", None),
        ({"contrast": {"directions": list(ALL), "joint": True}}, None),
        ("triplet", None),
        ("margin_distillation", SCORES),
    ],
)
def test_steps_in_parts_give_the_loss_and_gradient_of_whole_ones(model: Any, choice: Any, labels: Any) -> None:
    """Examples with one, two and three negatives, which the parts of a step pad alike."""

    def run(parts: int) -> tuple[float, Tensor]:
        task, rows = encoded(TEXTS, labels, loss=choice)
        assert task.config.negatives == 3
        task.setup(model, DRAW)
        size = len(rows) // parts
        batches = [task.build_batch(rows[n : n + size], DRAW) for n in range(0, len(rows), size)]
        tables = [task.gather_across_step(model, batch, parts) for batch in batches]
        if all(table is not None for table in tables):
            shared = torch.cat(cast(Any, tables)).detach()
            batches = [replace(b, step_context=StepContext(shared, size * n)) for n, b in enumerate(batches)]
        terms = [task(model, batch)[0] for batch in batches]
        assert sum(term.count for term in terms) == len(rows)
        total = torch.stack([term.sum for term in terms]).sum()
        model.zero_grad()
        total.backward()
        return float(total), model.embedding.word.weight.grad.clone()

    whole, gradient = run(1)
    in_parts, same = run(2)
    assert in_parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(same, gradient, rtol=1e-3, atol=1e-5)
    assert gradient.abs().sum() > 0


def test_negatives_of_unequal_number_are_each_compared_with_their_own(model: Any) -> None:
    task, rows = encoded(TEXTS, loss="triplet")
    assert any("from 1 to 3 negatives" in note for note in task.training_notes(examples_of(TEXTS)))
    (term,) = task(model, task.build_batch(rows, DRAW))
    expected = 0.0
    for row in rows:
        alone = [row.tokens, row.second, row.third, *row.others]
        vectors = [_vector(model, task, tokens) for tokens in alone if tokens is not None]
        first, partner, *negatives = vectors
        expected += float(
            torch.stack([F.relu(0.2 - first @ partner + first @ negative) for negative in negatives]).mean()
        )
    assert float(term.sum) == pytest.approx(expected, abs=1e-4)


def _vector(model: Any, task: Similarity, tokens: Any) -> Tensor:
    run, _ = task.vocabulary.add_special_tokens(tokens)
    with torch.no_grad():
        return F.normalize(model(ragged([run])).last_hidden_state.mean(dim=0), dim=0)


@pytest.mark.parametrize("choice", ["contrast", "triplet"])
def test_matryoshka_sums_the_loss_at_each_length(model: Any, choice: str) -> None:
    dims, weights = (64, 16, 8), (1.0, 0.5, 0.25)
    task, rows = encoded(TEXTS, loss=choice, dims=dims, dim_weights=weights)
    task.setup(model, DRAW)
    batch = task.build_batch(rows, DRAW)
    (term,) = task(model, batch)
    table = task.table(model(batch), batch)
    loss = build_loss(choice)
    expected = sum(
        weight * loss(VectorTable(shrink(table, dim), batch.targets["texts"][1])).losses.sum()
        for dim, weight in zip(dims, weights, strict=True)
    )
    torch.testing.assert_close(term.sum, cast(Tensor, expected), rtol=1e-5, atol=1e-5)


def test_a_step_of_one_example_has_no_negatives_on_its_own_side() -> None:
    """The loss was -inf: the last step of an epoch may hold one example."""
    table = make_table(torch.Generator().manual_seed(1), 1)
    for joint in (False, True):
        loss = build_loss({"contrast": {"directions": ALL, "joint": joint}})
        one = replace(table, vectors=table.vectors[:1].requires_grad_(), marks=table.marks[:1])
        (value,) = loss(one).losses
        value.backward()
        assert bool(value.isfinite() & (value >= 0))
        assert one.vectors.grad is not None
        assert bool(one.vectors.grad.isfinite().all())


@pytest.mark.parametrize("joint", [False, True])
def test_texts_that_are_the_same_or_absent_are_negatives_in_no_direction(joint: bool) -> None:
    loss = build_loss({"contrast": {"directions": ALL, "joint": joint}})
    table = make_table(torch.Generator().manual_seed(1), 1)
    twice = replace(table, vectors=table.vectors[:1].repeat(2, 1, 1), marks=table.marks[:1].repeat(2, 1, 1))
    alone = replace(table, vectors=table.vectors[:1], marks=table.marks[:1])
    least = math.log(2) if joint else 0.0  # the partner is among the candidates of both ways
    assert loss(replace(twice, vectors=_without_negatives(twice))).losses.tolist() == pytest.approx([least] * 2)
    assert float(loss(alone).losses) > least + 0.1
    absent = replace(table, vectors=_without_negatives(table))
    fewer = replace(table, vectors=table.vectors[:, :2], marks=table.marks[:, :2])
    torch.testing.assert_close(loss(absent).losses, loss(fewer).losses)


def _without_negatives(table: VectorTable) -> Tensor:
    return torch.cat([table.vectors[:, :2], torch.zeros_like(table.vectors[:, 2:])], dim=1)


def test_a_teachers_vectors_are_learned_from_texts_alone_and_pairs(model: Any) -> None:
    vectors = torch.randn(3, 128, generator=torch.Generator().manual_seed(3))
    texts: list[tuple[str, ...]] = [("the fox", "a fox jumps"), ("a hat", "the hat"), ("the dog", "a lazy dog")]
    task, rows = encoded(texts, vectors.tolist())
    assert task.config.loss == "vector_distillation"
    (term,) = task(model, task.build_batch(rows, DRAW))
    expected = sum(
        float((_vector(model, task, tokens) - F.normalize(vector, dim=0)).square().mean()) / 2
        for row, vector in zip(rows, vectors, strict=True)
        for tokens in (row.tokens, row.second)
    )
    assert float(term.sum) == pytest.approx(expected, abs=1e-6)
    rows[1].targets[:] = np.nan  # as of a validation pair, of which no vector is known
    some = [rows[0], replace(rows[1], targets=None), rows[2]]
    (term,) = task(model, task.build_batch(some, DRAW))
    assert term.count == 2
    assert bool(term.sum.isfinite())


def test_a_loss_of_ones_own_trains_and_its_parameters_learn(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "from pydantic import Field\n"
        "from pretune.config import Config\n"
        "from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss\n\n"
        "class Mine(VectorLoss):\n"
        "    class Config(Config):\n"
        "        power: float = Field(2.0, gt=0)\n\n"
        "    def __init__(self, config):\n"
        "        super().__init__(config)\n"
        "        self.bias = torch.nn.Parameter(torch.zeros(()))\n\n"
        "    def forward(self, table):\n"
        "        return RowLosses((1 - table.cosines[:, 0] + self.bias).abs() ** self.config.power)\n"
    )
    task, rows = encoded(TEXTS, loss={str(path): {"power": 1.0}})
    task.setup(model, DRAW)
    assert [name for name, _ in task.named_parameters()] == ["vector_loss.bias"]
    (term,) = task(model, task.build_batch(rows, DRAW))
    term.sum.backward()
    assert float(cast(Any, task.vector_loss).bias.grad) == pytest.approx(4.0)
    with pytest.raises(UsageError, match=r"mine\.py: field 'power'"):
        encoded(TEXTS, loss={str(path): {"power": 0}})


def test_labels_choose_the_loss() -> None:
    pairs: list[tuple[str, ...]] = [("the cat", "a cat"), ("a dog", "the dog")]
    assert encoded(pairs)[0].config.loss == "contrast"
    assert encoded(pairs, [1, 4.5])[0].config.loss == "cosent"
    assert encoded(TEXTS, SCORES)[0].config.loss == "margin_distillation"
    assert encoded(pairs, [1, 4.5], loss="cosine")[0].config.loss == {"cosine": {"low": 1.0, "high": 4.5}}
    assert encoded(pairs, [0.2, -0.5], loss="cosine")[0].config.loss == {"cosine": {"low": 0.0, "high": 1.0}}


@pytest.mark.parametrize(
    ("texts", "labels", "fields", "message"),
    [
        (TEXTS, [[1.0, 0.0], *SCORES[1:]], {}, r"pairs\.jsonl:1: 2 scores for 1 text and 2 negatives; give the score"),
        (TEXTS, None, {"loss": "margin_distillation"}, r"pairs\.jsonl:1: no scores to learn margins from"),
        (TEXTS, [1.0] * 4, {"loss": "margin_distillation"}, r"pairs\.jsonl:1: the margin '1' for 2 negatives"),
        ([("a cat", "the cat")], [[1.0, 2.0]], {"loss": "margin_distillation"}, r"jsonl:1: no third text, and margin"),
        ([("a cat", "the cat")], None, {"loss": "triplet"}, r"pairs\.jsonl:1: no third text, and the loss triplet"),
        ([("a cat", "the cat")], None, {"loss": "cosine"}, r"pairs\.jsonl:1: no label"),
        ([("a cat",)], None, {"loss": "vector_distillation"}, r"pairs\.jsonl:1: no vector to learn.*pretune embed"),
        ([("a cat",), ("a dog",)], [[1.0, 2.0], [1.0]], {"loss": "vector_distillation"}, r"1 numbers, after one of 2"),
        ([("a cat",)], [[0.0, 0.0]], {"loss": "vector_distillation"}, r"jsonl:1: a vector of zeros points nowhere"),
        ([("a cat",)], [[1.0, float("nan")]], {}, r"jsonl:1: field 'label\[1\]' = 'nan' is not a finite number"),
        ([("a cat", "a dog", " ")], None, {}, r"jsonl:1: field 'negatives\[0\]' = ' ' is empty"),
        ([("a cat", "a dog"), ("a cat", "a dog")], [[1.0], 2.0], {"loss": "cosent"}, r"the label is a list of 1 numb"),
    ],
)
def test_data_that_a_loss_cannot_learn_from_are_refused(
    texts: list[tuple[str, ...]], labels: Any, fields: dict[str, Any], message: str
) -> None:
    task = Similarity(Similarity.Config(**fields), word_tokenizer().vocabulary)
    with pytest.raises(DataError, match=message):
        task.resolve_config(examples_of(texts, labels))


def test_lengths_that_a_vector_does_not_have(model: Any) -> None:
    task, _ = encoded([("the cat", "a cat")], dims=(128, 256))
    with pytest.raises(UsageError, match=r"task\.similarity\.dims: 256 is more than the 128 numbers"):
        task.setup(model, DRAW)
    for fields, message in (
        ({"dims": (8, 8)}, "each once"),
        ({"dims": (8,), "dim_weights": (1.0, 2.0)}, "2 dim_weights for 1 dims"),
        ({"dims": (8,), "dim_weights": (0.0,)}, "above 0"),
        ({"loss": {"contrast": {}, "cosent": {}}}, "expected one loss"),
    ):
        with pytest.raises(ValueError, match=message):
            Similarity.Config(**cast(Any, fields))
    with pytest.raises(UsageError, match=r"no variant 'cosin'.*did you mean 'cosine'"):
        encoded([("the cat", "a cat")], loss="cosin")
    with pytest.raises(UsageError, match="name each direction once, query_to_doc among them"):
        encoded([("the cat", "a cat")], loss={"contrast": {"directions": ["doc_to_doc"]}})


def test_a_loss_that_gathers_vectors_as_labels_is_refused(tmp_path: Path) -> None:
    """It trained to a loss of 0: what is gathered over a step are scores."""
    path = tmp_path / "gathers.py"
    path.write_text(
        "from pretune.tasks.vector_losses.vector_loss import VectorLoss\n"
        "class Gathers(VectorLoss):\n"
        "    compares_examples = True\n"
        "    learns = 'vectors'\n"
        "    def forward(self, table):\n"
        "        return table.vectors[:, 0].sum(dim=1)\n"
    )
    with pytest.raises(UsageError, match="only scores are gathered over a step; set compares_examples to False"):
        build_loss(str(path))
