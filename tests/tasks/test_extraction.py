"""Spans and links at once: what is learned, windows, the loss by a slow reference, frames, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tinymodels import word_tokenizer

import pretune
from pretune.batch import Layout
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.model import Model
from pretune.models import build
from pretune.nn import token_pairs
from pretune.nn.token_pairs import TokenPairHead, pair_loss
from pretune.tasks.events import Events
from pretune.tasks.extraction import Extraction, WindowAnswer, WindowSpan
from pretune.tasks.roles import Roles
from pretune.tasks.shared.link_predictions import without_overlaps
from pretune.tasks.shared.named import name_tasks
from pretune.tasks.shared.records import read_examples
from pretune.text.samples.examples import ExampleView
from tests.train.trainkit import SHAPE, make_tokenizer

VERBS = {"w47": [("person", "city", "born")], "w48": [("city", "person", "hosts")], "w49": []}


def toy(count: int, seed: int, facts: int = 1) -> list[dict[str, Any]]:
    """A person of one or two words, a verb and a city, among other words; the verb says what links the two."""
    random, records = np.random.default_rng(seed), []
    for _ in range(count):
        words: list[str] = []
        spans: list[dict[str, Any]] = []
        links: list[dict[str, Any]] = []
        for _ in range(facts):
            words += [f"w{n}" for n in random.integers(20, 40, int(random.integers(1, 4)))]
            person = [f"w{n}" for n in random.integers(0, 10, int(random.integers(1, 3)))]
            verb, city = f"w{random.integers(47, 50)}", f"w{random.integers(10, 20)}"
            first = len(spans)
            for label, part in (("person", person), ("", [verb]), ("city", [city])):
                start = sum(len(word) + 1 for word in words)
                words += part
                if label:
                    spans.append({"start": start, "end": start + len(" ".join(part)), "label": label})
            number = {"person": first, "city": first + 1}
            links += [{"head": number[a], "tail": number[b], "label": name} for a, b, name in VERBS[verb]]
        records.append({"text": " ".join(words), "spans": spans, "links": links})
    return records


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("extraction")
    make_tokenizer(folder / "tokenizer")
    recipe = {
        "task": {"extraction": {"size": 16}},
        "data": {"tokenizer": str(folder / "tokenizer"), "length": 16, "batch": 16},
        "model": {"size": "tiny", "overrides": SHAPE},
        "budget": {"steps": 120},
        "evaluation": {"every": 60},
        "optimizer": {"lr": 5e-3},
        "device": "cpu",
        "precision": "fp32",
    }
    pretune.finetune(recipe, train=toy(400, 0), validation=toy(40, 1), output=str(folder / "run"))
    return folder, pretune.load(folder / "run", device="cpu", precision="fp32")


def test_it_learns_spans_and_links(trained: tuple[Path, Model]) -> None:
    _, model = trained
    test = toy(60, 2)
    scores = model.evaluate(test)
    assert scores["span_f1"] > 0.9
    assert scores["f1"] > 0.85
    assert {"precision", "recall", "span_recall", "f1/born", "count/hosts"} <= scores.keys()
    record = next(record for record in test if record["links"] and record["links"][0]["label"] == "hosts")
    prediction = model.predict(record["text"])
    assert [{**span, "probability": 1.0} for span in prediction["spans"]] == [
        {**span, "text": record["text"][span["start"] : span["end"]], "probability": 1.0} for span in record["spans"]
    ]
    assert [(link["head"], link["tail"], link["label"]) for link in prediction["links"]] == [(1, 0, "hosts")]
    assert 0.5 < prediction["links"][0]["probability"] <= 1


def test_a_long_text_is_read_in_windows(trained: tuple[Path, Model]) -> None:
    _, model = trained
    long = toy(12, 3, facts=12)
    scores = model.evaluate(long)
    assert scores["span_f1"] > 0.6  # though it was trained on texts of one fact
    assert scores["recall"] > 0.1
    prediction = model.predict(long[0]["text"])
    starts = [span["start"] for span in prediction["spans"]]
    assert starts == sorted(starts)


def test_it_is_saved_and_exported(trained: tuple[Path, Model], tmp_path: Path) -> None:
    _, model = trained
    model.export(tmp_path / "exported")
    again = pretune.load(tmp_path / "exported", device="cpu", precision="fp32")
    assert again.predict(toy(5, 4, facts=2)) == model.predict(toy(5, 4, facts=2))


def made(kind_of: type[Extraction], records: list[dict[str, Any]], **config: Any) -> tuple[Extraction, list[Any]]:
    vocabulary = word_tokenizer().vocabulary
    reader = kind_of(kind_of.Config(**config), vocabulary)
    examples = read_examples(reader, records)
    return kind_of(reader.resolve_config(examples), vocabulary), examples


CAT = {
    "text": "the cat sat on the mat",
    "spans": [(4, 7, "animal"), (4, 11, "clause"), (19, 22, "thing")],
    "links": [{"head": 0, "tail": 2, "label": "on"}],
}


def test_labels_schema_and_overlap_come_from_the_data() -> None:
    task, _ = made(Extraction, [CAT])
    config = task.config
    assert (config.span_labels, config.link_labels) == (("animal", "clause", "thing"), ("on",))
    assert config.link_schema == (("animal", "on", "thing"),)
    assert config.overlap is True
    flat, _ = made(Extraction, [{**CAT, "spans": [CAT["spans"][0], CAT["spans"][2]], "links": [(0, 1, "on")]}])
    assert flat.config.overlap is False


@pytest.mark.parametrize("length", [64, 9])
def test_targets_are_the_pairs_of_tokens(length: int) -> None:
    task, examples = made(Extraction, [CAT])
    tokenizer = word_tokenizer()
    rows = task.encode(examples, tokenizer, length)
    assert (len(rows) > 1) == (length < 64)
    seen = set()
    for row in rows:
        for table, label, first, second in row.targets.tolist():  # type: ignore[union-attr]
            spans = [(int(row.offsets[0][n, 0]), int(row.offsets[0][n, 1])) for n in (first, second)]
            seen.add((table, label, CAT["text"][spans[0][0] : spans[0][1]], CAT["text"][spans[1][0] : spans[1][1]]))
    if length == 64:
        assert len(rows[0].targets) == 5  # type: ignore[arg-type]
        assert (0, 0, spans_text(tokenizer, "cat")[0], spans_text(tokenizer, "cat")[1]) in seen


def spans_text(tokenizer: Any, word: str) -> tuple[str, str]:
    """The first and the last subword of a word."""
    _, offsets = tokenizer.encode_offsets(f"the {word} sat")
    inside = [(start, end) for start, end in offsets.tolist() if start >= 4 and end <= 4 + len(word)]
    text = f"the {word} sat"
    return text[inside[0][0] : inside[0][1]], text[inside[-1][0] : inside[-1][1]]


def test_the_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 5, 5)
    positive = torch.rand(3, 5, 5) < 0.2
    positive[2] = False
    scores[1] *= 40  # sums of exponentials that would overflow
    slow = torch.zeros(())
    for label in range(3):
        flat, true = scores[label].flatten(), positive[label].flatten()
        slow += torch.logsumexp(F.pad(flat[~true], (1, 0)), 0) + torch.logsumexp(F.pad(-flat[true], (1, 0)), 0)
    torch.testing.assert_close(pair_loss(scores[None], F.pad(positive.nonzero(), (1, 0))), slow)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_the_loss_of_a_batch_is_that_of_its_texts(is_ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, layout = TokenPairHead(8, ["a", "b"], 4), Layout.of([3, 6, 1, 5])
    rows = torch.randn(15, 8, requires_grad=True)
    true = torch.tensor([(0, 0, 0, 2), (1, 1, 2, 5), (1, 1, 0, 0), (3, 0, 1, 4)])
    slow = torch.zeros(())
    for n, scores in enumerate(head(rows, layout)):
        pairs = F.pad(true[true[:, 0] == n][:, 1:], (1, 0))
        outside = torch.ones(scores.shape[1:], dtype=torch.bool).tril(-1)
        slow = slow + pair_loss((scores.masked_fill(outside, -torch.inf) if is_ordered else scores)[None], pairs) / 2
    expected = torch.autograd.grad(slow, rows)[0]
    for group, kept in ((1 << 21, 1 << 18), (80, 1 << 18), (1 << 21, 10)):  # at once, in groups, computed again
        monkeypatch.setattr(token_pairs, "_GROUP", group)
        monkeypatch.setattr(token_pairs, "_KEPT", kept)
        loss = head.loss(rows, layout, true, is_ordered=is_ordered)
        torch.testing.assert_close(loss, slow)
        torch.testing.assert_close(torch.autograd.grad(loss, rows)[0], expected)


def test_scores_of_a_pair_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    head = TokenPairHead(8, ["a", "b"], 4)
    row = torch.randn(1, 8).expand(6, 8)
    (scores,) = head(row, Layout.of([6]))
    for offset in range(-3, 4):
        diagonal = scores.diagonal(offset, 1, 2)
        torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal))
    both = head(torch.cat([row, row[:3]]), Layout.of([6, 3]))
    torch.testing.assert_close(both[0], scores)
    torch.testing.assert_close(both[1], scores[:, :3, :3])


def test_windows_answer_for_the_spans_that_begin_in_them() -> None:
    task, examples = made(
        Extraction, [{**CAT, "spans": [*CAT["spans"][::2], (12, 14, "clause")], "links": [(0, 1, "on")]}]
    )
    cat, clause, mat = (4, 7, "animal"), (4, 11, "clause"), (19, 22, "thing")
    first = WindowAnswer([WindowSpan(cat, 0.9, True), WindowSpan(mat, 0.6, False)], [(0, 1, "on", 0.7)])
    second = WindowAnswer([WindowSpan(clause, 0.8, True), WindowSpan(mat, 0.9, True)], [(1, 0, "on", 0.9)])
    prediction = task.merge(examples[0], [first, second])
    assert [(span["start"], span["end"], span["probability"]) for span in prediction["spans"]] == [
        (4, 7, 0.9), (19, 22, 0.9),
    ]  # fmt: skip
    assert prediction["links"] == [{"head": 0, "tail": 1, "label": "on", "probability": 0.7}]
    assert without_overlaps([(cat, 0.5), (clause, 0.6), (mat, 0.1)]) == [1, 2]


@pytest.mark.parametrize("length", [12, 20, 40])
def test_true_answers_of_windows_make_the_true_prediction(length: int) -> None:
    records = toy(20, 5, facts=8)
    task, examples = made(Extraction, records)
    answers: dict[int, list[WindowAnswer]] = {n: [] for n in range(len(records))}
    for row in task.encode(examples, word_tokenizer(), length):
        offsets, owned = row.offsets[0], range(len(row.tokens))[row.answers_for]
        spans = [
            WindowSpan((int(offsets[i, 0]), int(offsets[j, 1]), task.config.span_labels[label]), 1.0, i in owned)
            for table, label, i, j in row.targets.tolist()  # type: ignore[union-attr]
            if table == 0
        ]
        number, example = {span.key: n for n, span in enumerate(spans)}, examples[row.example]
        ends = [((s := example.spans[n]).start, s.end, s.label) for n in range(len(example.spans))]
        links = [
            (number[ends[link.head]], number[ends[link.tail]], link.label, 1.0)
            for link in example.links
            if ends[link.head] in number and ends[link.tail] in number
        ]
        answers[row.example].append(WindowAnswer(spans, links))
    assert (len(answers[0]) > 1) == (length < 40) or length == 40
    scores = task.score([task.merge(examples[n], answers[n]) for n in answers], examples)
    assert scores["span_f1"] == 1
    assert scores["precision"] == 1
    assert scores["recall"] > (0.5 if length == 12 else 0.95)


def test_a_text_that_fits_is_the_same_with_and_without_windows() -> None:
    rows = [made(Extraction, [CAT], truncate=truncate)[0] for truncate in ("windows", "head")]
    examples = made(Extraction, [CAT])[1]
    (one,), (other,) = (task.encode(examples, word_tokenizer(), 64) for task in rows)
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.targets.tolist() == other.targets.tolist()  # type: ignore[union-attr]
    assert one.answers_for == other.answers_for == slice(None)


def test_spans_that_stay_do_not_overlap() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        starts = random.integers(0, 40, 30).tolist()
        spans = [((s, s + int(random.integers(1, 6)), "a"), float(random.random())) for s in starts]
        kept = without_overlaps(spans)
        slow: list[int] = []
        for n in sorted(range(30), key=lambda n: -spans[n][1]):
            (start, end, _), _ = spans[n]
            if all(end <= spans[k][0][0] or spans[k][0][1] <= start for k in slow):
                slow.append(n)
        assert kept == sorted(slow)


def test_a_row_that_is_not_known_has_no_loss() -> None:
    task, _ = made(Extraction, [CAT])
    unknown = [task.read({"text": "the cat"}), task.read(CAT)]
    rows = task.encode(unknown, word_tokenizer(), 64)
    batch = task.build_batch(ExampleView(rows).read(np.arange(2), 0, 0, Draw(0)), Draw(0))
    assert task.counts(batch) == {"extraction": 1}


EVENT = {
    "text": "rebels attacked the town",
    "spans": [(7, 15, "Attack"), (0, 6, "Person"), (20, 24, "Place"), (0, 24, "Person")],
    "links": [(0, 1, "Attacker"), (0, 2, "Target")],
}


def prediction_of(spans: list[tuple[int, int, str]], links: list[tuple[int, int, str]]) -> Any:
    return {
        "spans": [{"start": start, "end": end, "label": label} for start, end, label in spans],
        "links": [{"head": head, "tail": tail, "label": label} for head, tail, label in links],
    }


def test_scores_of_events_are_strict() -> None:
    task, examples = made(Events, [EVENT])
    assert task.config.evokers == ("Attack",)  # type: ignore[attr-defined]
    right = task.score([prediction_of(EVENT["spans"], EVENT["links"])], examples)
    assert (right["argument_f1"], right["trigger_f1"], right["f1/Attacker"]) == (1, 1, 1)
    spans = [(7, 15, "Attack"), (0, 6, "Place"), (16, 24, "Place")]  # labels of arguments do not count, places do
    some = task.score([prediction_of(spans, [(0, 1, "Attacker"), (0, 2, "Target")])], examples)
    assert (some["argument_f1"], some["argument_place_f1"], some["f1/Target"]) == (0.5, 0.5, 0)
    other = task.score([prediction_of(EVENT["spans"], [(0, 1, "Target"), (0, 2, "Target")])], examples)
    assert (other["argument_f1"], other["argument_place_f1"]) == (0.5, 1)
    moved = [(7, 11, "Attack"), *EVENT["spans"][1:]]
    assert task.score([prediction_of(moved, EVENT["links"])], examples)["argument_f1"] == 0


def test_predicates_that_are_given() -> None:
    task, examples = made(Roles, [EVENT], given=True)
    known, bare = examples[0], task.read({"text": EVENT["text"], "spans": EVENT["spans"][:1]})
    rows = ExampleView(task.encode([known, bare], word_tokenizer(), 64)).read(np.arange(2), 0, 0, Draw(0))
    pairs = task.known_pairs(rows[0])
    assert pairs is not None
    assert len(pairs) == 4 + 2 * 2
    assert task.known_pairs(rows[1]) is None
    size = len(rows[0].tokens)
    for row in rows:
        scores = task.span_scores(torch.ones(3, size, size), row)
        attack = task.config.span_labels.index("Attack")
        assert int((scores[attack] > 0).sum()) == 1
        assert (scores[[n for n in range(3) if n != attack]] == 1).all()
    with pytest.raises(DataError, match=r"record\[0\]: no spans; mark the spans that evoke frames, or set given"):
        task.encode([task.read({"text": "a cat"})], word_tokenizer(), 64)


def test_given_spans_keep_their_bounds_and_others_inside_words_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    inside = {**EVENT, "text": "the the the", "spans": [(4, 6, "Attack"), (0, 2, "Person"), (8, 11, "Place")]}
    for given, counted in ((True, "1 of 2"), (False, "2 of 3")):
        caplog.clear()
        task, (example,) = made(Roles, [inside], given=given)
        task.encode([example], word_tokenizer(), 64)
        assert f"inside a word or token, so that they cannot be found exactly: {counted}" in caplog.text
        spans = [WindowSpan((4, 7, "Attack"), 1.0, True), WindowSpan((0, 3, "Person"), 0.9, True)]
        prediction = task.merge(example, [WindowAnswer(spans, [(0, 1, "Attacker", 0.8)])])
        assert prediction["links"] == [{"head": 1, "tail": 0, "label": "Attacker", "probability": 0.8}]
        person, attack = prediction["spans"]
        assert (person["start"], person["end"], person["probability"]) == (0, 3, 0.9)
        assert attack == (
            {"start": 4, "end": 6, "label": "Attack", "text": "th"}
            if given
            else {"start": 4, "end": 7, "label": "Attack", "text": "the", "probability": 1.0}
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"links": []}, r"list: no links in all records; give spans links, or use --task nested"),
        ({"spans": [(4, 99, "a"), (0, 3, "a")]}, r"list\[0\]: 'spans\[0\]' = 4 to 99 lies outside the text"),
        ({"spans": [(3, 7, "a"), (0, 3, "a")]}, r"list\[0\]: 'spans\[0\]' .* begins or ends on white space"),
        ({"links": [(0, 7, "a")]}, r"list\[0\]: 'links\[0\]\.tail' = '7' is no span of the record"),
        ({"links": [(1, 1, "a")]}, r"list\[0\]: 'links\[0\]', 'a', leads from span 1 to itself; name two spans"),
        ({"text": " "}, r"list\[0\]: field 'text' = ' ' is empty"),
    ],
)
def test_bad_records(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        made(Extraction, [{**CAT, **change}])


def test_what_the_settings_forbid_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"list\[0\]: spans 0 and 1 of 'spans' overlap, and task\.extraction\.overlap is"
    ):
        made(Extraction, [CAT], overlap=False)
    with pytest.raises(
        DataError, match=r"'links\[0\]' links 'animal' to 'thing' by 'on', which task\.extraction\.link_s"
    ):
        made(Extraction, [CAT], link_schema=(("animal", "under", "thing"),))


def test_unseen_labels_are_refused() -> None:
    task, _ = made(Extraction, [CAT])
    unseen = {**CAT, "links": [(0, 2, "under")]}
    with pytest.raises(DataError, match=r"link label 'under' was not seen in training; known: on; correct it, or add"):
        task.encode(read_examples(task, [unseen]), word_tokenizer(), 64)
    unseen = {**CAT, "spans": [*CAT["spans"][:2], (19, 22, "rug")]}
    with pytest.raises(DataError, match=r"list\[0\]: span label 'rug' was not seen in training; known: animal, clause"):
        task.encode(read_examples(task, [unseen]), word_tokenizer(), 64)


def test_two_tasks_on_one_model_have_heads_of_their_own() -> None:
    vocabulary = word_tokenizer().vocabulary
    named = name_tasks({"facts": Extraction, "deeds": Events})
    roles: list[str] = []
    for task in named.values():
        reader = task(task.Config(), vocabulary)
        filled = task(reader.resolve_config(read_examples(reader, [EVENT])), vocabulary)
        roles += filled.heads(build("bert", "tiny", [], {"vocab_size": vocabulary.size}))
    assert len(set(roles)) == len(roles) == 6
