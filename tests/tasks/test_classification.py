"""Labels checked on the host; batches; loss, scores and heads against torch, scikit-learn and transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from sklearn import metrics
from tinymodels import byte_tokenizer, save_bert, word_tokenizer
from torch import nn

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.evaluate.engine import predict_examples
from pretune.find import find_class, variants
from pretune.interop.huggingface import load_model
from pretune.models.init import initialise
from pretune.models.model import construct, get_family
from pretune.models.size_fields import configure
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.shared.predictions import Prediction
from pretune.tasks.task import Task, int_targets
from pretune.text.readers.records import Origin
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, Row
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.tune import frozen, full

LABELS = ("bad", "good", "so-so")
WORDS = word_tokenizer()
CPU = torch.device("cpu")


def example(text: str, label: str | None = None, second: str | None = None, line: int = 1) -> ClassificationExample:
    return ClassificationExample(text, label, second=second, origin=Origin("train.csv", line))


def examples(*labels: str | None, text: str = "the cat ate {n} hats") -> list[ClassificationExample]:
    return [example(text.format(n=n), label, None, n + 2) for n, label in enumerate(labels)]


def make_task(**config: object) -> Classification:
    return Classification(Classification.Config.model_validate({"labels": LABELS, **config}), WORDS.vocabulary)


def some_rows(task: Classification, labels: list[int | None]) -> list[Row]:
    rng = np.random.default_rng(0)
    built = [Encoded(rng.integers(5, 90, size=2 + n % 7), targets=int_targets(label)) for n, label in enumerate(labels)]
    return ExampleView(built).read(np.arange(len(labels)), 0, 0, Draw(0))


def test_found_by_name() -> None:
    assert {"cert", "classification", "similarity"} <= set(variants("tasks"))
    assert find_class("tasks", "classification", Task) is Classification
    assert {"frozen", "full", "top"} <= set(variants("tune"))


def test_resolve_config_sorts_labels_and_balances() -> None:
    actual = Classification(Classification.Config(), WORDS.vocabulary).resolve_config(examples("b", "a", "b", "b"))
    assert actual.labels == ("a", "b")
    assert actual.class_weights == "none"
    config = Classification.Config(labels=("z", "b", "a"), class_weights="balanced")
    actual = Classification(config, WORDS.vocabulary).resolve_config(examples("b", "a", "b", "b"))
    assert actual.labels == ("z", "b", "a")
    assert actual.class_weights == {"a": 2.0, "b": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (("a", "a", "a"), (), r"train\.csv: all 3 examples have the label 'a'"),
        (("a", None), (), r"train\.csv:3: no label"),
        (("a", "c"), ("a", "b"), r"train\.csv:3: label 'c' is not in task\.labels; known labels: a, b"),
        ((), (), "no examples"),
    ],
)
def test_resolve_config_refuses(labels: tuple[str | None, ...], given: tuple[str, ...], message: str) -> None:
    task = Classification(Classification.Config(labels=given), WORDS.vocabulary)
    with pytest.raises(DataError, match=message):
        task.resolve_config(examples(*labels))


def test_label_unseen_in_training() -> None:
    actual = examples("bad", "good", "ugly")
    with pytest.raises(
        DataError, match=r"train\.csv:4: label 'ugly' was not seen in training; known labels: bad, good"
    ):
        make_task().encode(actual, WORDS, 20)


@pytest.mark.parametrize(
    "config", [{"labels": ("a",)}, {"labels": LABELS, "class_weights": {"goood": 2.0}}], ids=["one label", "misspelt"]
)
def test_config_refuses(config: dict[str, object]) -> None:
    checked = Classification.Config.model_validate(config)

    def use() -> None:
        Classification(checked, WORDS.vocabulary)
        Classification(checked, WORDS.vocabulary).resolve_config(examples("a", "a"))

    with pytest.raises(UsageError, match=r"at least two|did you mean 'good'"):
        use()


def test_prepare_wraps_and_names_what_is_known() -> None:
    task = make_task()
    rows = some_rows(task, [2, None, 0])
    batch = task.prepare(rows, Draw(0))
    index, label = batch.targets["classification"]
    assert index.tolist() == [0, 2]
    assert label.tolist() == [2, 0]
    assert task.counts(batch) == {"classification": 2}
    assert batch.samples.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    first = batch.tokens[: batch.layout.lengths[0]].tolist()
    assert first == [WORDS.vocabulary.cls, *rows[0].tokens.tolist(), WORDS.vocabulary.sep]
    pair = task.prepare([Row((0, 0, 0), np.array([7, 8]), second=np.array([9]))], Draw(0))
    assert pair.segments is not None
    assert pair.segments.tolist() == [0, 0, 0, 0, 1, 1]


class Scores(nn.Module):
    """A model whose head gives set logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.heads = {"classification": lambda hidden, layout: self.logits}

    def forward(self, batch: object) -> object:
        return type("Output", (), {"last_hidden_state": None, "layout": None})()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", ["none", {"bad": 3.0, "so-so": 0.5}])
def test_loss_is_that_of_torch(smoothing: float, weights: object) -> None:
    task = make_task(label_smoothing=smoothing, class_weights=weights, weight=0.5)
    labels = [2, 0, None, 1, 1]
    model = Scores(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    (term,) = task(model, task.prepare(some_rows(task, labels), Draw(0)))
    rows = [0, 1, 3, 4]
    vector = None if weights == "none" else torch.tensor([3.0, 1.0, 0.5])
    wanted = F.cross_entropy(
        model.logits[rows], torch.tensor([2, 0, 1, 1]), weight=vector, reduction="sum", label_smoothing=smoothing
    )
    assert torch.allclose(term.sum, wanted)
    assert (term.name, term.count, term.weight) == ("classification", 4, 0.5)
    assert int(term.correct) == int((model.logits[rows].argmax(1) == torch.tensor([2, 0, 1, 1])).sum())


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_that_of_the_paper(gamma: float) -> None:
    task = make_task(focal_gamma=gamma, class_weights={"bad": 3.0})
    model = Scores(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    (term,) = task(model, task.prepare(some_rows(task, [2, 0, 1]), Draw(0)))
    probability = model.logits.softmax(1)[torch.arange(3), torch.tensor([2, 0, 1])]
    wanted = -(torch.tensor([1.0, 3.0, 1.0]) * (1 - probability) ** gamma * probability.log()).sum()
    assert torch.allclose(term.sum, wanted)
    sure = Scores(torch.tensor([[-99.0, -99.0, 99.0]] * 3))
    (term,) = task(sure, task.prepare(some_rows(task, [2, 2, 2]), Draw(0)))
    term.sum.backward()
    assert sure.logits.grad is not None
    assert bool(sure.logits.grad.isfinite().all())


def test_a_batch_without_labels_has_a_loss_of_zero() -> None:
    task = make_task()
    model = Scores(torch.randn(2, 3))
    (term,) = task(model, task.prepare(some_rows(task, [None, None]), Draw(0)))
    term.sum.backward()
    assert (float(term.sum.detach()), term.count) == (0.0, 0)
    assert model.logits.grad is not None
    assert not model.logits.grad.any()


def test_macro_f1_is_over_labels_in_truth_or_prediction() -> None:
    """A label that the file does not hold counted as 0: 0.67 for scikit-learn's 1.0."""
    task = make_task()
    truth = [LABELS[n] for n in (0, 1, 0)]
    scores = task.score([Prediction(label, {label: 1.0}) for label in truth], examples(*truth))
    assert scores["f1_macro"] == metrics.f1_score(truth, truth, average="macro") == 1.0


@pytest.mark.filterwarnings("error")
def test_one_label_alone_is_scored_without_a_warning() -> None:
    """A warning of scikit-learn on confusion matrices came on the screen of `evaluate`."""
    label = LABELS[0]
    scores = make_task().score([Prediction(label, {label: 1.0})] * 3, examples(label, label, label))
    assert (scores["accuracy"], scores["mcc"], scores[f"recall/{LABELS[1]}"]) == (1.0, 0.0, 0.0)


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, guess = ([LABELS[n] for n in rng.integers(0, 3, size=60)] for _ in range(2))
    actual = make_task().score([Prediction(g, {g: 1.0}) for g in guess], examples(*truth))
    report = metrics.classification_report(truth, guess, output_dict=True)
    assert actual["accuracy"] == pytest.approx(report["accuracy"])
    assert actual["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
    assert actual["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, guess))
    for label in LABELS:
        for ours, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("count", "support"),
        ):
            assert actual[f"{ours}/{label}"] == pytest.approx(report[label][theirs])


def test_scores_need_labels() -> None:
    with pytest.raises(DataError, match=r"train\.csv:2: no label"):
        make_task().score([Prediction("bad", {"bad": 1.0})], examples(None))


def test_predictions_are_those_of_transformers_for_bert(tmp_path: Path) -> None:
    theirs = save_bert(tmp_path, WORDS, transformers.BertForSequenceClassification, list(LABELS))
    model = load_model(tmp_path)
    actual = [*examples(*[None] * 4, text="the quick fox {n}"), example("the dog", None, "a hat")]
    actual += examples(None, text="the cat ate a hat and the dog jumps over {n}")
    task = make_task()
    built = predict_examples(model, task, actual, task.encode(actual, WORDS, 48), WORDS, budget=20)
    wanted = transformers_probabilities(theirs, tmp_path, actual)
    for prediction, row in zip(built, wanted, strict=True):
        assert list(prediction.probabilities) == list(LABELS)
        assert list(prediction.probabilities.values()) == pytest.approx(row, abs=1e-5)
        assert prediction.label == LABELS[int(np.argmax(row))]
        assert prediction.probability == max(prediction.probabilities.values())


def transformers_probabilities(
    model: transformers.PreTrainedModel, folder: Path, given: list[ClassificationExample]
) -> list[list[float]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    out = []
    for example in given:
        inputs = tokenizer(example.text, example.second, return_tensors="pt", return_token_type_ids=True)
        with torch.no_grad():
            out.append(model(**inputs).logits.softmax(dim=1)[0].tolist())
    return out


@pytest.mark.parametrize(("family", "tokenizer"), [("bert", WORDS), ("gpt2", byte_tokenizer())])
@pytest.mark.parametrize("method", [full, frozen])
def test_both_families_learn(family: str, tokenizer: Tokenizer, method: object) -> None:
    """Sixty steps on twelve texts, after which every label is right; frozen bodies do not move."""
    torch.manual_seed(0)
    size = {"bert": {"num_hidden_layers": 1}, "gpt2": {"n_layer": 1}}[family]
    kind = get_family(family)
    config = configure(kind, "tiny", {**size, "vocab_size": tokenizer.vocabulary.size})
    model = construct(family, config, ["classification"], ["cat", "dog"])
    initialise(model, 0)
    model.eval()
    actual = [
        example(f"the {'cat' if n % 2 else 'dog'} ate {'a hat ' * (n % 5)}", "cat" if n % 2 else "dog", None, n)
        for n in range(12)
    ]
    task = Classification(Classification.Config(), tokenizer.vocabulary)
    task = Classification(task.resolve_config(actual), tokenizer.vocabulary)
    rows = task.encode(actual, tokenizer, 64)
    view = ExampleView(rows)
    batch = task.prepare(view.read(np.arange(12), 0, 0, Draw(0)), Draw(0))
    method.apply(model, method.Config())  # type: ignore[attr-defined]
    trained = [p for p in model.parameters() if p.requires_grad]
    word = model.embedding.word.weight.detach().clone()
    optimizer = torch.optim.Adam(trained, lr=1e-3 if method is full else 3e-2)
    for _ in range(60):
        (term,) = task(model, batch)
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
    assert (method is frozen) == torch.equal(word, model.embedding.word.weight)
    predictions = predict_examples(model, task, actual, rows, tokenizer)
    if method is full:
        assert task.score(predictions, actual)["accuracy"] == 1.0
    else:
        assert all(name.startswith("heads.") for name, p in model.named_parameters() if p.requires_grad)


def test_frozen_keeps_a_tied_weight() -> None:
    kind = get_family("gpt2")
    model = construct("gpt2", configure(kind, "tiny", {}), ["clm", "classification"], ["a", "b"])
    frozen.apply(model, frozen.Config())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["heads.classification.linear.weight"]
    full.apply(model, full.Config())
    assert all(p.requires_grad for p in model.parameters())


def test_tokens_are_all_that_a_batch_may_hold():
    """Of both texts and around them; unknown for a variant that may put in others."""
    task = make_task()
    pairs = [
        example("the cat", "good", "a dog", 2),
        example("ate hats", "bad", None, 3),
    ]
    rows = task.encode(pairs, WORDS, 16)
    batch = task.build_batch(ExampleView(rows).read(np.arange(2), 0, 0, Draw(0)), Draw(0))
    actual = task.tokens(rows)
    assert set(batch.tokens.tolist()) <= set(actual.tolist())
    assert len(actual) < WORDS.vocabulary.size

    class Noisy(Classification):
        def corrupt(self, batch, draw):
            return batch

    class Prompted(Classification):
        def prepare(self, rows, draw):
            return super().prepare(rows, draw)

    for kind in (Noisy, Prompted):
        assert kind(task.config, WORDS.vocabulary).tokens(rows) is None


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([str(n) for n in range(11, -1, -1)], tuple(str(n) for n in range(12))),
        (["10", "-1", "2.0", "1"], ("-1", "1", "2.0", "10")),
        (["b", "a", "nan"], ("a", "b", "nan")),
    ],
)
def test_numbers_are_ordered_by_their_value(labels: list[str], order: tuple[str, ...]) -> None:
    """Labels 0..11 gave id2label {2: "10", 3: "11", 4: "2"}."""
    assert Classification(Classification.Config(), WORDS.vocabulary).resolve_config(examples(*labels)).labels == order


def test_labels_that_are_numbers_and_words() -> None:
    with pytest.raises(DataError, match=r"csv:4: label 'two': 2 of the labels are numbers, such as '0', and 1 are"):
        Classification(Classification.Config(), WORDS.vocabulary).resolve_config(examples("0", "1", "two", "0"))
    named = Classification.Config(labels=("0", "1", "two"))
    assert Classification(named, WORDS.vocabulary).resolve_config(examples("0", "1", "two", "0")).labels == (
        "0",
        "1",
        "two",
    )


def read_records(label: object, **config: object) -> list[ClassificationExample]:
    task = Classification(Classification.Config.model_validate(config), WORDS.vocabulary)
    return [task.read({"text": "a", "label": label}) for _ in range(2)]


@pytest.mark.parametrize("label", [True, np.bool_(False)])
def test_truth_values_are_classes_where_they_are_named(label: object) -> None:
    with pytest.raises(DataError, match="true and false are no names of classes"):
        read_records(label)
    (first, _) = read_records(label, labels=["true", "false"])
    assert first.label in ("true", "false")
    assert read_records("true")[0].label == "true"


def test_fractions_are_classes_where_they_are_named() -> None:
    scores = examples("0.5", "1.5", "2")
    with pytest.raises(DataError, match=r"train.csv:2: label '0\.5': fractions are scores"):
        make_task(labels=()).resolve_config(scores)
    assert make_task(labels=("0.5", "1.5", "2")).resolve_config(scores).labels == ("0.5", "1.5", "2")
    assert make_task(labels=()).resolve_config(examples("1", "2.0")).labels == ("1", "2.0")
