"""Vectors from pairs and triplets: the loss by a slow reference, correlations, what is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from fakes import CLS, SEP, make_vocabulary
from scipy import stats
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from tinymodels import word_tokenizer

from pretune.batch import StepContext, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.evaluate.engine import predict_examples
from pretune.models import build
from pretune.tasks.cert import CertOfPairs
from pretune.tasks.shared.pair_scores import PairCosine
from pretune.tasks.shared.vector_task import PairExample, align_windows
from pretune.tasks.similarity import Similarity
from pretune.tasks.task import RowBatch
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Origin
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, data_stats
from pretune.text.samples.windows import Window

DRAW = Draw(4)
SHAPE = {"vocab_size": 100, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0}


def encodings(count: int, thirds: tuple[int, ...] = ()) -> list[Encoded]:
    random = np.random.default_rng(1)

    def text() -> Any:
        return random.integers(5, 100, int(random.integers(1, 12)))

    return [Encoded(text(), text(), text() if n in thirds else None) for n in range(count)]


def made(rows: list[Encoded], **fields: Any) -> tuple[Similarity, RowBatch]:
    task = Similarity(Similarity.Config(**fields), make_vocabulary())
    return task, task.build_rows(ExampleView(rows).read(np.arange(len(rows)), 0, 0, DRAW), DRAW)


def pair(label: str | None, line: int) -> PairExample:
    return PairExample("a", "b", label=label, origin=Origin("sts.csv", line))


def vector(model: Any, tokens: Any, pooling: str = "mean") -> torch.Tensor:
    hidden = model(ragged([[CLS, *tokens.tolist(), SEP]])).last_hidden_state
    pooled = hidden.mean(dim=0) if pooling == "mean" else hidden[0]
    return pooled / pooled.norm()


@pytest.mark.parametrize("thirds", [(), (0, 2, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_loss_is_what_the_paper_says(thirds: tuple[int, ...], pooling: str) -> None:
    model = build("bert", "tiny", [], SHAPE).eval()
    rows = encodings(5, thirds)
    task, row_batch = made(rows, pooling=pooling)
    batch = row_batch.batch
    assert batch.layout.count == 10 + len(thirds)
    (term,) = task(model, batch)
    anchors = [vector(model, row.tokens, pooling) for row in rows]
    others = [vector(model, row.second, pooling) for row in rows]
    others += [vector(model, row.third, pooling) for row in rows if row.third is not None]
    expected = torch.zeros(())
    for n, anchor in enumerate(anchors):
        scores = torch.stack([anchor @ other for other in others]) / 0.05
        expected = expected - (scores[n] - scores.logsumexp(0))
    torch.testing.assert_close(term.sum, expected, rtol=1e-4, atol=1e-4)
    assert (term.count, term.name) == (5, "similarity")
    term.sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_answers_are_cosines_and_scores_correlate() -> None:
    model = build("bert", "tiny", [], SHAPE).eval()
    rows = encodings(6, (1,))
    task, batch = made(rows)
    with torch.no_grad():
        answers = task.decode(model, batch, word_tokenizer())
    expected = [float(vector(model, row.tokens) @ vector(model, row.second)) for row in rows]
    assert answers == pytest.approx(expected, abs=1e-5)
    truth = [0.0, 2.5, 5.0, 1.0, 1.0, 4.0]
    actual = task.score(answers, [pair(str(value), n) for n, value in enumerate(truth)])
    assert actual["spearman"] == pytest.approx(stats.spearmanr(answers, truth).statistic)
    assert actual["pearson"] == pytest.approx(np.corrcoef(answers, truth)[0, 1])


def test_what_cannot_be_compared_is_refused() -> None:
    task, _ = made(encodings(2))
    with pytest.raises(DataError, match=r"sts\.csv:3: label 'much' is not a number"):
        task.score([0.1, 0.2], [pair("1", 2), pair("much", 3)])
    with pytest.raises(DataError, match="all labels are 1"):
        task.score([0.1, 0.2], [pair("1", 2)] * 2)
    with pytest.raises(DataError, match=r"similarity learns from pairs.*data\.columns\.second"):
        task.resolve_config([PairExample("a")])
    with pytest.raises(DataError, match="no examples"):
        task.resolve_config([])
    named = Similarity(Similarity.Config(columns=LabelledConfig(second="b", label="scroe")), task.vocabulary)
    with pytest.raises(DataError, match=r"no field 'scroe' here nor in any other record; .*--label none"):
        named.resolve_config([pair(None, 2)])


def test_each_text_is_cut_by_itself() -> None:
    words = word_tokenizer()
    task = Similarity(Similarity.Config(), words.vocabulary)
    example = PairExample("the cat " * 20, "a hat", "the dog " * 30)
    (row,) = task.encode([example], words, 12)
    assert [len(text) for text in row.texts] == [10, 2, 10]
    assert [len(spans) for spans in row.offsets] == [10, 2, 10]
    stats = data_stats([row])
    assert {name: stats[name] for name in ("examples", "tokens", "examples_cut", "tokens_cut")} == {
        "examples": 1, "tokens": 40 + 2 + 60, "examples_cut": 1, "tokens_cut": 30 + 50
    }  # fmt: skip


def test_columns_without_a_gap() -> None:
    with pytest.raises(ValueError, match="a column for the third texts needs one for the second"):
        LabelledConfig(third="c")


def test_cert_reads_the_second_text_by_the_copy_and_fills_the_queue() -> None:
    model = build("bert", "tiny", [], SHAPE).eval()
    task = CertOfPairs(CertOfPairs.Config(queue=8, projection=False, pooling="mean", momentum=0.5), make_vocabulary())
    task.setup(model, DRAW)
    with torch.no_grad():
        for parameter in task.copy.parameters():
            parameter.add_(0.01)
    rows = encodings(5)
    row_batch = task.build_rows(ExampleView(rows).read(np.arange(5), 0, 0, DRAW), DRAW)
    batch = row_batch.batch
    keys = [vector(task.copy, row.second) for row in rows]
    task.after_step(model, task.gather_across_step(model, batch, 1))
    assert int(task.filled) == 5
    (term,) = task(model, batch)
    expected = torch.zeros(())
    for row in rows:
        queries = vector(model, row.tokens)
        ours = vector(task.copy, row.second)  # the copy has moved
        others = [queries @ other for m, other in enumerate(keys) if rows[m] is not row]  # its own earlier view is none
        scores = torch.stack([queries @ ours, *others]) / 0.07
        expected = expected - (scores[0] - scores.logsumexp(0))
    torch.testing.assert_close(term.sum, expected, rtol=1e-4, atol=1e-4)
    answers = task.decode(model, row_batch, word_tokenizer())
    assert answers == pytest.approx([float(vector(model, r.tokens) @ vector(model, r.second)) for r in rows], abs=1e-5)


def test_the_same_text_and_the_same_answer_are_no_negatives() -> None:
    """Two ask the same, two have the same answer, one's hard negative is another's answer, one answers another."""
    model = build("bert", "tiny", [], SHAPE).eval()
    rows = encodings(6, (2, 5))
    rows[1] = replace(rows[1], tokens=rows[0].tokens)
    rows[3] = replace(rows[3], second=rows[2].second)
    rows[5] = replace(rows[5], third=rows[4].second)
    rows[4] = replace(rows[4], tokens=rows[2].third)
    task, row_batch = made(rows)
    (term,) = task(model, row_batch.batch)
    false = {(0, 1), (1, 0), (2, 3), (3, 2), (4, 7), (4, 6)}  # and the third texts after the second ones
    anchors = [vector(model, row.tokens) for row in rows]
    others = [vector(model, row.second) for row in rows] + [vector(model, rows[n].third) for n in (2, 5)]
    expected = torch.zeros(())
    for n, anchor in enumerate(anchors):
        scores = torch.stack([anchor @ other for m, other in enumerate(others) if (n, m) not in false]) / 0.05
        expected = expected - (anchor @ others[n] / 0.05 - scores.logsumexp(0))
    torch.testing.assert_close(term.sum, expected, rtol=1e-4, atol=1e-4)
    samples = ExampleView(rows).read(np.arange(6), 0, 0, DRAW)
    assert task.step_data_stats([samples[:3], samples[3:]]) == {"false_negatives": len(false)}


def test_a_few_answers_to_many_questions_can_be_learned() -> None:
    """With each other's answers as negatives the loss could not fall below ln 8."""
    questions = encodings(32)
    answers = encodings(4)
    rows = [replace(row, second=answers[n % 4].tokens) for n, row in enumerate(questions)]
    marks = Similarity(Similarity.Config(), make_vocabulary()).marks(ExampleView(rows).read(np.arange(32), 0, 0, DRAW))
    table = torch.nn.functional.one_hot(torch.arange(32) % 4, 32).float()[:, None].expand(32, 3, 32)
    table = torch.cat([table[:, :2], torch.zeros(32, 1, 32)], dim=1)
    task = Similarity(Similarity.Config(loss="contrast"), make_vocabulary())
    assert float(task.contrast(table, marks[1], slice(None)).sum) / 32 < 1e-6


@pytest.mark.parametrize("parts", [1, 2])
def test_labels_are_scores_in_the_order_of_which_cosines_are_put(parts: int) -> None:
    """The loss of sentence-transformers' CoSENTLoss, over the whole step, with its gradient."""
    model = build("bert", "tiny", [], SHAPE).eval()
    truth = [0.0, 5.0, 2.5, 2.5, 1.0, 4.0]
    rows = [replace(row, targets=np.array(score)) for row, score in zip(encodings(6), truth, strict=True)]
    task, _ = made(rows, loss="scores")
    samples = ExampleView(rows).read(np.arange(6), 0, 0, DRAW)
    batches = [task.build_batch(samples[n : n + 6 // parts], DRAW) for n in range(0, 6, 6 // parts)]
    if parts > 1:
        tables = [task.gather_across_step(model, batch, parts) for batch in batches]
        shared = torch.cat([table for table in tables if table is not None]).detach()
        batches = [replace(b, step_context=StepContext(shared, 3 * n)) for n, b in enumerate(batches)]
    terms = [task(model, batch)[0] for batch in batches]
    assert sum(term.count for term in terms) == 6
    sum(term.sum for term in terms).backward()  # type: ignore[union-attr]
    gradient = model.embedding.word.weight.grad.clone()  # type: ignore[union-attr,operator]
    model.zero_grad()
    first, other = ([vector(model, text) for text in texts] for texts in zip(*(row.texts for row in rows), strict=True))
    loss = CoSENTLoss(cast(Any, None)).compute_loss_from_embeddings(
        [torch.stack(first), torch.stack(other)], torch.tensor(truth)
    )
    assert sum(float(term.sum) for term in terms) / 6 == pytest.approx(float(loss), rel=1e-4)
    (6 * loss).backward()
    torch.testing.assert_close(gradient, model.embedding.word.weight.grad, rtol=1e-3, atol=1e-4)


def test_labels_decide_on_the_loss() -> None:
    def loss(*labels: str | None, third: str | None = None, **fields: Any) -> str | None:
        examples = [PairExample("a", "b", third, label, origin=Origin("sts.csv", n)) for n, label in enumerate(labels)]
        return str(Similarity(Similarity.Config(**fields), make_vocabulary()).resolve_config(examples).loss)

    assert loss(None, None) == loss("1", "1") == loss("x", "0", loss="contrast") == "contrast"
    assert loss("0", "1") == loss("0.5", "4") == loss("0", "1", loss="scores") == "cosent"
    with pytest.raises(DataError, match=r"sts\.csv:1: no label, where other pairs have one"):
        loss("1", None)
    with pytest.raises(DataError, match=r"label 'sport' is not a number.*label"):
        loss("sport", "1")
    with pytest.raises(DataError, match="all labels are 0"):
        loss("0", "0")
    with pytest.raises(DataError, match="all labels are 1"):
        loss("1", "1", loss="scores")
    with pytest.raises(DataError, match="third text beside labels that differ"):
        loss("0", "1", third="c")


def test_cert_takes_no_scores() -> None:
    def notes(*labels: str | None) -> list[str]:
        examples = [pair(label, n) for n, label in enumerate(labels)]
        task = CertOfPairs(CertOfPairs.Config(), make_vocabulary())
        task.resolve_config(examples)
        return task.training_notes(examples)

    assert notes(None, None) == []
    for labels in (("1", "1.0"), (None, "1"), ("sport", "news"), ("true", "false")):
        assert notes(*labels) == ["labels are not used: each pair is taken for texts that belong together"]
    with pytest.raises(DataError, match=r"sts\.csv:1: label '0', after '5'.*similarity"):
        notes("5", "0")
    with pytest.raises(DataError, match=r"sts\.csv:1: label '0\.0' says that nothing is alike.*similarity"):
        notes(None, "0.0", "0")


def test_documents_beyond_the_window_are_matched_by_their_mean_vectors() -> None:
    words = word_tokenizer()
    shape = {**SHAPE, "vocab_size": words.vocabulary.size}
    model = build("bert", "tiny", [], shape).eval()
    examples = [
        PairExample("the quick brown fox jumps over the lazy dog " * 5, "the cat ate a hat " * 3),
        PairExample("the cat", "a hat"),
    ]
    task = Similarity(Similarity.Config(truncate="windows", stride=0), words.vocabulary)
    rows = task.encode(examples, words, 18)
    assert len(rows) == 4
    stats = data_stats(rows)
    texts = [text for example in examples for text in (example.text, example.second or "")]
    assert stats["tokens"] == sum(len(words.encode(text)) for text in texts)
    assert stats["tokens_cut"] == 0
    long, short = predict_examples(model, task, examples, rows, words)
    first, second = (
        torch.stack([vector(model, row.texts[n]) for row in rows[:-1]]).mean(dim=0).detach() for n in (0, 1)
    )
    assert long == pytest.approx(float(torch.nn.functional.cosine_similarity(first, second, dim=0)), abs=1e-5)
    cut = Similarity(Similarity.Config(), words.vocabulary)
    (plain,) = predict_examples(model, cut, examples[1:], cut.encode(examples[1:], words, 18), words)
    assert short == pytest.approx(plain, abs=1e-6)


def test_windows_of_the_shorter_text_are_spread() -> None:
    long, short = ([Window(np.arange(n, n + 2)) for n in range(count)] for count in (5, 2))
    rows = align_windows([long, [], short])
    assert [int(row[0].index[0]) for row in rows if row[0] is not None] == [0, 1, 2, 3, 4]
    assert [row[1] for row in rows] == [None] * 5
    assert [(int(row[2].index[0]), row[2].repeated) for row in rows if row[2] is not None] == [
        (0, 0), (0, 2), (0, 2), (1, 0), (1, 2),
    ]  # fmt: skip


def test_pairs_without_labels_are_scored_as_rankings() -> None:
    """Copies of a text are one; a text with two partners has both to find."""
    random = np.random.default_rng(7)
    firsts = ["a", "b", "a", "c", "d"]
    seconds = ["w", "x", "y", "z", "x"]
    by_text = {text: random.normal(size=6).astype(np.float32) for text in {*firsts, *seconds}}
    examples = [
        PairExample(*texts, origin=Origin("pairs.csv", n)) for n, texts in enumerate(zip(firsts, seconds, strict=True))
    ]
    predictions = [
        PairCosine.of(by_text[first], by_text[second]) for first, second in zip(firsts, seconds, strict=True)
    ]
    task, _ = made(encodings(2))
    scores = task.score(predictions, examples)

    def rank(query: str, wanted: str) -> int:
        cosines = {
            text: by_text[query] @ by_text[text] / np.linalg.norm(by_text[query]) / np.linalg.norm(by_text[text])
            for text in set(seconds)
        }
        return sorted(cosines, key=lambda text: -cosines[text]).index(wanted)

    partners = {"a": ["w", "y"], "b": ["x"], "c": ["z"], "d": ["x"]}
    first_ranks = [min(rank(query, other) for other in others) for query, others in partners.items()]
    assert scores["RR@10"] == pytest.approx(np.mean([1 / (1 + n) for n in first_ranks]))
    found = [np.mean([rank(query, other) < 1 for other in others]) for query, others in partners.items()]
    assert scores["R@1"] == pytest.approx(np.mean(found))
    assert task.metric_of(examples) == "nDCG@10"
    assert task.metric_of([pair("1", 0)]) == "spearman"
    with pytest.raises(DataError, match=r"pairs\.csv:1: no label, where other pairs have one"):
        task.score(predictions[:2], [replace(examples[0], label="1"), examples[1]])


def test_cosines_keep_their_vectors_between_processes() -> None:
    cosine = pickle.loads(pickle.dumps(PairCosine.of(np.array([3.0, 4.0]), np.array([1.0, 0.0]))))  # noqa: S301
    assert cosine == pytest.approx(0.6)
    assert cosine.vectors.first.tolist() == [3.0, 4.0]
