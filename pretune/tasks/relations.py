"""Relations of marked entities: what stands between two spans of a text, if anything, and from which to which.

    {"text": "The cider press crushed her fingers.", "spans": [{"start": 4, "end": 15, "label": "thing"},
     {"start": 28, "end": 35, "label": "thing"}], "links": [{"head": 0, "tail": 1, "label": "Cause-Effect"}]}

Each pair of spans is a row: the text with marks around the two, of which the earlier is e1 and the later e2, decided
among the relations in both directions and none: `Cause-Effect(e1,e2)` is a link from e1 to e2. Marks are punctuation,
which every tokenizer knows, with the words of the spans' labels where there are several; the head reads the hidden
states of the two opening marks (in a causal model, which sees nothing there, those of the second span's end and of the
text's). Of a text that is too long the part around the pair is read. Pairs of labels that no
link of the training data connects are left out.

Scores: those of the official scorer of SemEval-2010, task 8, in both directions: precision and recall of each relation
count a wrong direction as an error, and `f1_macro` is the mean F1 of the relations that the truth has. `f1` is that of
all links together.

Source: Zhou and Chen 2021, "An improved baseline for sentence-level relation extraction" (arXiv 2102.01373), typed
entity marks of punctuation; Hendrickx et al. 2010 (S10-1006) for the scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.loss import Term, cross_entropy
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.pair_head import PairHead
from pretune.objectives.objective import name_samples, target
from pretune.tasks.shared.annotated import AnnotatedExample, annotated_columns, read_annotated
from pretune.tasks.shared.link_predictions import LinkPrediction, PredictedLink, describe, predicted_spans
from pretune.tasks.shared.link_scores import ItemScores
from pretune.tasks.shared.marked_pairs import PairMarks, opposite
from pretune.tasks.task import RowBatch, Task, encode_texts, tokens_of
from pretune.text.annotation import Span
from pretune.text.readers.records import Column
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary
from pretune.wording import counted

NO_RELATION = "none"
_FORWARD, _BACKWARD = "(e1,e2)", "(e2,e1)"
_OPENING = "opening"  # the target that says where the two opening marks stand
_ENDS = "ends"  # the target that says where the second closing mark and the end of the text stand
_NO_PAIR = (-1, -1, -1, 0, 0, 0)  # targets of a row without pair: class, spans, opening marks, second closing mark


class PairAnswer(NamedTuple):
    """The class of a pair, how probable it is, and the numbers of its spans."""

    first: int
    second: int
    label: str
    probability: float


class Relations(Task[AnnotatedExample, PairAnswer, LinkPrediction]):
    """The relation of each pair of marked spans."""

    name: ClassVar[str] = "relations"
    record_id: ClassVar[str | None] = "id"
    role: ClassVar[str] = "relations"
    main_metric: str = "f1_macro"

    class Config(Task.Config):
        """Classes and pairs.

        Attributes:
            truncate: a text that is too long is read around each pair (windows), or is an error.
            classes: relations with their directions, in the order of the head's outputs; empty: those of the training
                data, with `none` first where some pair has none.
            pairs: pairs of labels of spans that may have a relation; empty: those that the training data link.
            types: put the words of spans' labels into the marks; by default where spans have several labels.
            dropout: rate before the last layer of the head.
        """

        truncate: Literal["windows", "error"] = "windows"
        classes: tuple[str, ...] = ()
        pairs: tuple[tuple[str, str], ...] = ()
        types: bool | None = None
        dropout: float = Field(default=0.1, ge=0.0, lt=1.0)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self.classes = list(config.classes)
        self._number = {name: n for n, name in enumerate(self.classes)}
        self.score_labels = sorted({relation_of(name) for name in self.classes if name != NO_RELATION})
        self._pairs = {frozenset(pair) for pair in config.pairs}

    def columns(self, needs_labels: bool) -> list[Column]:
        """Text, spans and links; the spans are needed in any case."""
        columns = annotated_columns(self.config.columns, needs_labels, links=True)
        spans = self.config.columns.spans
        return [Column(c.name, c.setting, True, c.alternatives) if c.name == spans else c for c in columns]

    def read(self, record: Mapping[str, object]) -> AnnotatedExample:
        """A text with its spans, which have pairs where they are two or more, and the links between them.

        Raises:
            DataError: spans or links that cannot be read, or no spans.
        """
        example = read_annotated(record, self.config.columns, links=True)
        if example.spans is None:
            raise DataError(
                f"{example.origin}: no spans; mark the entities in {self.config.columns.spans!r}, or use --task "
                "extraction, which finds them"
            )
        return example

    def training_notes(self, examples: Sequence[AnnotatedExample]) -> list[str]:
        """How many pairs are decided, and how many of them have a relation."""
        counts = [len(list(self.candidates(example))) for example in examples]
        pairs, linked = sum(counts), sum(len(example.links or ()) for example in examples)
        relations, bare = counted(len(self.score_labels), "relation"), counts.count(0)
        note = f"pairs of spans that are learned: {pairs:,}; with one of {relations}: {linked:,}"
        return [f"{note}; texts without a pair: {bare:,}" if bare else note]

    def resolve_config(self, examples: Sequence[AnnotatedExample]) -> Config:
        """Fill in classes, pairs of labels and whether labels are marked.

        Raises:
            DataError: no link in all examples, the same relation of all pairs, one pair with two relations, or a link
                that `pairs` leaves out.
        """
        pairs, count, labels = set[tuple[str, str]](), Counter[str](), set[str]()
        for example in examples:
            spans = example.spans or ()
            labels.update(span.label for span in spans)
            for n, link in enumerate(example.links or ()):
                first, second = sorted((spans[link.head].label, spans[link.tail].label))
                pairs.add((first, second))
                if self._pairs and frozenset((first, second)) not in self._pairs:
                    raise DataError(
                        f"{example.origin}: '{self.config.columns.links}[{n}]', {link.label!r}, links {first!r} and "
                        f"{second!r}, which task.relations.pairs leaves out; add the pair there, or leave the link out"
                    )
        pairs = set(self.config.pairs) or pairs
        reader = type(self)(self.config.model_copy(update={"pairs": tuple(pairs)}), self.vocabulary)
        for example in examples:
            classes = reader.classes_of(example)
            count.update(classes.get(pair, NO_RELATION) for pair in reader.candidates(example))
        relations = sorted(name for name in count if name != NO_RELATION)
        if not relations and not self.config.classes:
            where = examples[0].origin.source if examples else "training data"
            raise DataError(f"{where}: no links in all records; give spans that have a relation a link")
        none = (NO_RELATION,) if count[NO_RELATION] else ()
        if len(none) + len(relations) == 1 and not self.config.classes:
            raise DataError(
                f"{examples[0].origin.source}: all {count.total()} pairs of spans have the relation {relations[0]!r}; "
                "give pairs with other relations, or with none"
            )
        types = len(labels) > 1 if self.config.types is None else self.config.types
        names = self.config.classes or (*none, *relations)
        return self.config.model_copy(update={"classes": names, "pairs": tuple(sorted(pairs)), "types": types})

    def candidates(self, example: AnnotatedExample) -> Iterator[tuple[int, int]]:
        """The pairs of spans that are decided: their numbers, the earlier in the text first."""
        spans = example.spans or ()
        order = sorted(range(len(spans)), key=lambda n: (spans[n].start, spans[n].end, n))
        for first, second in combinations(order, 2):
            if frozenset((spans[first].label, spans[second].label)) in self._pairs:
                yield first, second

    def classes_of(self, example: AnnotatedExample) -> dict[tuple[int, int], str]:
        """The class of each pair that has a relation.

        Raises:
            DataError: a pair with two.
        """
        spans, classes = example.spans or (), dict[tuple[int, int], str]()
        for n, link in enumerate(example.links or ()):
            is_forward = _order(spans, link.head) < _order(spans, link.tail)
            pair = (link.head, link.tail) if is_forward else (link.tail, link.head)
            name = link.label + (_FORWARD if is_forward else _BACKWARD)
            if classes.setdefault(pair, name) != name:
                raise DataError(
                    f"{example.origin}: '{self.config.columns.links}[{n}]' gives the spans {link.head} and {link.tail} "
                    f"a second relation, {name!r} besides {classes[pair]!r}; leave one out, or use --task extraction"
                )
        return classes

    def encode(self, examples: Sequence[AnnotatedExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each pair of spans; an example without any pair is a row of its text, of which nothing is said."""
        encodings = encode_texts(examples, [example.text for example in examples], tokenizer)
        marks = PairMarks(tokenizer, bool(self.config.types))
        max_tokens = length - self.vocabulary.overhead(False)
        rows: list[Encoded] = []
        for n, (example, encoding) in enumerate(zip(examples, encodings, strict=True)):
            assert encoding is not None  # every example has a text
            spans, classes = example.spans or (), self.classes_of(example)
            pairs = list(self.candidates(example))
            for k, pair in enumerate(pairs):
                name = None if example.links is None else classes.get(pair, NO_RELATION)
                marked = marks.mark(*encoding, (spans[pair[0]], spans[pair[1]]), max_tokens, str(example.origin))
                if marked.cut and self.config.truncate == "error":
                    raise DataError(
                        f"{example.origin}: {len(encoding[0])} tokens, more than fit; raise the length, or set "
                        "truncate to windows"
                    )
                targets = [self._number_of(example, name), *pair, *marked.opening, marked.closing[1]]
                row = Encoded(marked.tokens, targets=np.array(targets), example=n, offsets=(marked.offsets,))
                own = 0 if k else len(encoding[0]) - marked.cut  # tokens of the text that no earlier row has
                rows.append(replace(row, cut=0 if k else marked.cut, repeated=row.size - own))
            if not pairs:
                rows.append(Encoded(encoding[0][:max_tokens], example=n, offsets=(encoding[1][:max_tokens],)))
        return rows

    def _number_of(self, example: AnnotatedExample, name: str | None) -> int:
        """The number of a class; -1 where it is not known."""
        if name is None:
            return -1
        if name not in self._number:
            known = ", ".join(self.classes[:20])
            raise DataError(
                f"{example.origin}: relation {name!r} was not seen in training; known: {known}; correct the link, or "
                "add it to the training data or to task.relations.classes"
            )
        return self._number[name]

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head over the marks of a pair."""
        return {self.role: PairHead(model.width, self.classes, self.config.dropout)}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Texts between special tokens, the places of the marks, and the classes that are known."""
        wrapped = [self.vocabulary.add_special_tokens(row.tokens) for row in rows]
        batch = name_samples(ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped]), rows)
        table = np.array([_NO_PAIR if row.targets is None else row.targets for row in rows], np.int64).reshape(-1, 6)
        known = np.flatnonzero(table[:, 0] >= 0)
        batch.targets[self.name] = target(known, table[known, 0])
        bounds = np.array(batch.layout.bounds)
        starts = bounds[:-1] + self.vocabulary.prefix_length
        batch.targets[_OPENING] = target(starts + table[:, 3], starts + table[:, 4])
        batch.targets[_ENDS] = target(starts + table[:, 5], bounds[1:] - 1)
        return batch

    def output_rows(self, batch: Batch) -> Ints:
        """The marks, and the ends of the texts."""
        return np.concatenate([places.numpy() for name in (_OPENING, _ENDS) for places in batch.targets[name]])

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts and marks, and the special ones around them."""
        return tokens_of(self, Relations, rows)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the classes, summed over the pairs."""
        index, label = batch.targets[self.name]
        logits = self._logits(model, output, batch)[index]
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, cross_entropy(logits, label), label.numel(), self.config.weight, correct)]

    def _logits(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """Shape: return: (N, classes) fp32."""
        first, second = batch.targets[_ENDS if model.is_causal else _OPENING]
        keys = None if batch.layout.keys is None else batch.layout.keys.at(first)
        logits: Tensor = get_head(model, self.role, PairHead)(output.at(first), output.at(second), keys)
        return logits.float()

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[PairAnswer]:
        """The most probable class of each pair."""
        logits = self._logits(model, model(rows.batch), rows.batch)
        best, number = (column.cpu().tolist() for column in logits.softmax(dim=1).max(dim=1))
        answers = []
        for row, probability, n in zip(rows, best, number, strict=True):
            first, second = (-1, -1) if row.targets is None else map(int, row.targets[1:3])
            answers.append(PairAnswer(first, second, self.classes[n], probability))
        return answers

    def merge(self, example: AnnotatedExample, answers: Sequence[PairAnswer]) -> LinkPrediction:
        """The spans of an example, and the relations that are not none."""
        links: list[PredictedLink] = []
        for answer in answers:
            if answer.first < 0 or answer.label == NO_RELATION:
                continue
            is_forward = answer.label.endswith(_FORWARD)
            head, tail = (answer.first, answer.second) if is_forward else (answer.second, answer.first)
            name = relation_of(answer.label)
            links.append({"head": head, "tail": tail, "label": name, "probability": answer.probability})
        spans = [((span.start, span.end, span.label), None) for span in example.spans or ()]
        return {"spans": predicted_spans(example.text, spans), "links": links}

    def brief(self, prediction: LinkPrediction) -> Mapping[str, object]:
        """The relations with the texts of their spans, which were given."""
        return {"links": describe(prediction)["links"]}

    def score(self, predictions: Sequence[LinkPrediction], examples: Sequence[AnnotatedExample]) -> dict[str, float]:
        """Directed macro-F1 over the relations, F1 of all links, accuracy over pairs; and those of each relation."""
        counts = ItemScores()
        right = total = 0
        for prediction, example in zip(predictions, examples, strict=True):
            truth = {(link.head, link.tail): link.label for link in example.links or ()}
            guess = {(link["head"], link["tail"]): link["label"] for link in prediction["links"]}
            items = [[(label, pair) for pair, label in links.items()] for links in (truth, guess)]
            counts.add(*items)
            for pair in self.candidates(example):
                right += all(truth.get(one) == guess.get(one) for one in (pair, opposite(pair)))
                total += 1
        scores = {"f1_macro": counts.macro(), **counts.total_by_name(), "accuracy": right / max(total, 1)}
        return {**scores, **counts.by_label(self.score_labels)}


def relation_of(name: str) -> str:
    """The relation of a class, without its direction."""
    return name.removesuffix(_FORWARD).removesuffix(_BACKWARD)


def _order(spans: Sequence[Span], number: int) -> tuple[int, int, int]:
    """By what spans of a text are ordered."""
    return spans[number].start, spans[number].end, number
