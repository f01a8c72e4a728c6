"""Texts and pairs in windows, and the one answer of a text that was read in several."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from tinymodels import byte_tokenizer, word_tokenizer

from pretune.errors import DataError, UsageError
from pretune.evaluate.engine import predict_examples
from pretune.models.init import initialise
from pretune.models.model import construct, get_family
from pretune.models.size_fields import configure
from pretune.tasks.cert import CertOfPairs
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.shared.predictions import IndependentPrediction, Prediction, Values, average
from pretune.tasks.shared.vector_task import PairExample
from pretune.tasks.shared.windowed import cut_text, token_spans
from pretune.text.readers.records import Origin
from pretune.text.samples.rows import data_stats
from pretune.text.tokenizer.long_texts import EncodedText

TEXT = "the quick brown fox jumps over the lazy dog " * 9


def build(truncate: str, stride: int | None = None, tokenizer=None) -> Classification:
    config = Classification.Config(labels=("a", "b"), truncate=truncate, stride=stride)
    return Classification(config, (tokenizer or word_tokenizer()).vocabulary)


def example(text: str, second: str | None = None) -> ClassificationExample:
    return ClassificationExample(text, "a", second=second, origin=Origin("some.csv", 2))


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), byte_tokenizer()], ids=["bert", "gpt2"])
@pytest.mark.parametrize(
    ("text", "second"),
    [(TEXT, None), (TEXT, "the dog"), ("the dog", TEXT), (TEXT, TEXT + "the dog"), ("the fox", "the dog")],
)
def test_every_token_is_read_and_the_statistics_count_it(tokenizer, text: str, second: str | None) -> None:
    rows = build("windows", None, tokenizer).encode([example(text, second)], tokenizer, 24)
    stats = data_stats(rows)
    assert all(row.size + tokenizer.vocabulary.overhead(second is not None) <= 24 for row in rows)
    assert stats["examples"] == 1
    sizes = [len(tokenizer.encode(part)) for part in (text, second or "")]
    assert stats["tokens"] == sum(sizes)
    cut = min(sizes) - min(min(sizes), (24 - tokenizer.vocabulary.overhead(True)) // 2) if second else 0
    assert stats["tokens_cut"] == cut
    longer = sizes.index(max(sizes))
    answers = [row.texts[longer][row.answers_for] for row in rows]
    assert np.concatenate(answers).tolist() == tokenizer.encode([text, second or ""][longer]).tolist()


def test_a_text_that_fits_is_the_same_row_with_and_without_windows() -> None:
    tokenizer = word_tokenizer()
    examples = [example("the quick dog"), example("the fox", "a hat")]
    plain, windows = (build(truncate).encode(examples, tokenizer, 24) for truncate in ("head", "windows"))
    for one, other in zip(plain, windows, strict=True):
        assert [text.tolist() for text in one.texts] == [text.tolist() for text in other.texts]
        assert (one.targets, one.example, one.cut, one.repeated) == (other.targets, other.example, 0, 0)


def test_a_long_text_is_classified_by_the_mean_of_its_windows_and_a_short_one_as_before() -> None:
    tokenizer = word_tokenizer()
    config = configure(get_family("bert"), "tiny", {"num_hidden_layers": 1, "vocab_size": tokenizer.vocabulary.size})
    model = construct("bert", config, ["classification"], ["a", "b"])
    initialise(model, 0)
    long, short = example(TEXT), example("the fox")
    predictions = []
    for truncate in ("head", "windows"):
        task = build(truncate)
        rows = task.encode([long, short], tokenizer, 24)
        predictions.append(predict_examples(model, task, [long, short], rows, tokenizer))
    assert predictions[0][1].label == predictions[1][1].label
    first, second = (each[1].probabilities for each in predictions)
    assert first == pytest.approx(second, abs=1e-6)  # beside other rows, the last bits may differ
    alone = [
        predict_examples(model, each, [short], each.encode([short], tokenizer, 24), tokenizer)
        for each in (build("head"), build("windows"))
    ]
    assert alone[0] == alone[1]
    rows = build("windows").encode([long], tokenizer, 24)
    parts = [example(TEXT[row.offsets[0][0, 0] : row.offsets[0][-1, 1]]) for row in rows]
    assert len(parts) > 3
    task = build("error")
    answers = predict_examples(model, task, parts, task.encode(parts, tokenizer, 24), tokenizer)
    logits = np.log([[answer.probabilities[label] for label in ("a", "b")] for answer in answers]).mean(axis=0)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(predictions[1][0].probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_windows_share_a_stride_below_their_size() -> None:
    tokenizer = word_tokenizer()
    rows = build("windows", 5).encode([example(TEXT)], tokenizer, 24)
    assert {row.repeated for row in rows[1:-1]} <= {5, 6, 7}
    with pytest.raises(UsageError, match=r"task\.classification\.stride = 22: windows have 22 tokens of text"):
        build("windows", 22).encode([example("the dog")], tokenizer, 24)
    with pytest.raises(DataError, match=r"some\.csv:2: a length that leaves 0 tokens"):
        build("windows").encode([example("the dog")], tokenizer, 2)


def test_views_have_no_windows() -> None:
    tokenizer = word_tokenizer()
    task = CertOfPairs(CertOfPairs.Config(truncate="windows"), tokenizer.vocabulary)
    with pytest.raises(UsageError, match="a text has one vector; use head, tail or head"):
        task.encode([PairExample("the dog", "the fox")], tokenizer, 24)


def test_answers_of_windows_are_those_of_their_mean_logits() -> None:
    logits = np.array([[1.0, -2.0, 0.5], [0.2, 3.0, -1.0]])
    names = ["a", "b", "c"]
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    one = Prediction("a", dict(zip(names, softmax[0].tolist(), strict=True)))
    other = Prediction("b", dict(zip(names, softmax[1].tolist(), strict=True)))
    mean = np.exp(logits.mean(axis=0)) / np.exp(logits.mean(axis=0)).sum()
    merged = average([one, other])
    assert type(merged) is Prediction
    assert list(merged.probabilities.values()) == pytest.approx(mean.tolist())
    assert merged.label == names[int(mean.argmax())]
    assert average([one]) is one
    certain = average([Prediction("a", {"a": 1.0, "b": 0.0}), Prediction("b", {"a": 0.25, "b": 0.75})])
    assert isinstance(certain, Prediction)
    assert certain.label == "a"


def test_independent_answers_and_values_are_averaged_too() -> None:
    merged = average(
        [IndependentPrediction("a", {"a": 0.9, "b": 0.5}), IndependentPrediction("b", {"a": 0.1, "b": 0.6})]
    )
    assert type(merged) is IndependentPrediction
    assert merged.probabilities["a"] == pytest.approx(0.5)
    assert merged.probabilities["b"] == pytest.approx(1 / (1 + math.exp(-math.log(1.5) / 2)))
    assert merged.label == "b"
    values = average([Values({"score": 1.0}), Values({"score": 4.0})])
    assert isinstance(values, Values)
    assert values.value == 2.5


def test_characters_are_those_of_the_tokens_that_they_touch() -> None:
    offsets = np.array([[0, 3], [4, 6], [6, 9], [10, 11]])
    first, last = token_spans(offsets, np.array([0, 4, 5, 3, 9]), np.array([3, 9, 7, 4, 10]))
    assert first.tolist() == [0, 1, 1, 1, 3]
    assert last.tolist() == [0, 2, 2, 0, 2]


def test_a_text_of_a_million_characters_is_cut_in_little_memory() -> None:
    count = 230_000
    ends = 5 * np.arange(1, count + 1)
    text = EncodedText(np.full(count, 20), np.stack([ends - 5, ends - 1], axis=1))
    task = build("windows")
    tracemalloc.start()
    try:
        windows = cut_text(task, text, 128, example(TEXT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ends[-1] > 1_000_000
    assert np.concatenate([window.answers for window in windows]).tolist() == list(range(count))
    assert peak < 10 << 20
