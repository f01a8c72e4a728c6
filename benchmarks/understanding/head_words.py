"""The strongest simple method for semantic roles and events: a dictionary of words that were seen in each role.

    python -m benchmarks.understanding.head_words

prints strict F1 of arguments in five folds, by the scores of the tasks `roles` and `events`. For roles the dictionary
knows head words beside predicates and gets the true trees, from which an argument's ends follow: more than a model has.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.understanding.sets import Record, fifths
from benchmarks.understanding.sets_extraction import casie, role_sentences
from pretune.tasks.events import Events
from pretune.tasks.frames import Frames
from pretune.tasks.roles import Roles
from pretune.tasks.shared.annotated import AnnotatedExample, read_annotated
from pretune.tasks.shared.link_predictions import LinkPrediction
from pretune.text.annotation import Span
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.propbank import ARGUMENT, PREDICATE, Sentence, record_of
from pretune.text.tokenizer.vocabulary import numbered

NONE = "none"
_WORD = re.compile(r"\w+|[^\w\s]")
_NEAR = 200  # characters between a trigger and an argument at most


class Words:
    """Counts of labels by what was seen with them, the most special first; the first that is known decides."""

    def __init__(self) -> None:
        self._counts: dict[tuple[object, ...], Counter[str]] = defaultdict(Counter)

    def add(self, label: str, *keys: tuple[object, ...]) -> None:
        """Counts a label for each key."""
        for key in keys:
            self._counts[key][label] += 1

    def most(self, *keys: tuple[object, ...]) -> str:
        """The commonest label of the first key that is known."""
        known = next((self._counts[key] for key in keys if key in self._counts), None)
        return NONE if known is None else known.most_common(1)[0][0]


def _prediction(spans: Sequence[tuple[int, int, str]], links: Sequence[tuple[int, int, str]]) -> LinkPrediction:
    return {
        "spans": [{"start": start, "end": end, "label": label, "text": ""} for start, end, label in spans],
        "links": [{"head": a, "tail": b, "label": label, "probability": 1.0} for a, b, label in links],
    }


class _Fold(NamedTuple):
    task: Frames
    predictions: list[LinkPrediction]
    examples: list[AnnotatedExample]

    def score(self) -> Mapping[str, float]:
        return self.task.score(self.predictions, self.examples)


def roles(language: str, given: bool) -> list[Mapping[str, float]]:
    """Scores of each fold.

    Args:
        given: predicates are known; else those words are, which are predicates more often than not.
    """
    sentences = {sentence.name: sentence for sentence in role_sentences(language)}
    scores = []
    for split in fifths([{"id": name} for name in sentences]):
        train, test = ([sentences[str(record["id"])] for record in part] for part in (split.train, split.test))
        words, predicates = Words(), Words()
        for sentence in train:
            for n, word in enumerate(sentence.words):
                predicates.add(PREDICATE if n in sentence.predicates else NONE, (word.lower(),))
            for predicate, true in zip(sentence.predicates, sentence.roles, strict=True):
                for n in range(len(sentence.words)):
                    words.add(true.get(n, NONE), *_keys(sentence, predicate, n))
        examples = [_example(record_of(sentence)) for sentence in test]
        predictions = []
        for sentence in test:
            chosen = [n for n, word in enumerate(sentence.words) if predicates.most((word.lower(),)) == PREDICATE]
            listed = sentence.predicates if given else chosen
            guess = [{n: words.most(*_keys(sentence, p, n)) for n in range(len(sentence.words))} for p in listed]
            guess = [{n: role for n, role in each.items() if role != NONE} for each in guess]
            record = record_of(replace(sentence, predicates=tuple(listed), roles=tuple(guess)))
            predictions.append(_as_prediction(record))
        task = Roles(Roles.Config(evokers=(PREDICATE,), span_labels=(PREDICATE, ARGUMENT)), numbered(8))
        scores.append(_Fold(task, predictions, examples).score())
    return scores


def _keys(sentence: Sentence, predicate: int, word: int) -> list[tuple[object, ...]]:
    """What is known of a word beside a predicate: both words, and the word and on which side it stands."""
    verb, other, is_before = sentence.words[predicate].lower(), sentence.words[word].lower(), word < predicate
    return [(verb, other, is_before), (other, is_before)]


def events() -> list[Mapping[str, float]]:
    """Scores of each fold of CASIE."""
    scores = []
    for split in fifths(casie(), lambda record: str(record["id"])):
        train, test = ([_example(record) for record in part] for part in (split.train, split.test))
        heads = tuple(
            sorted({example.spans[k.head].label for example in train for k in example.links or () if example.spans})
        )
        phrases, words = Words(), Words()
        for example in train:
            for span in example.spans or ():
                phrases.add(span.label, (example.text[span.start : span.end].lower(),))
            for link in example.links or ():
                head, tail = _span(example, link.head), _span(example, link.tail)
                words.add(
                    link.label, (head.label, example.text[tail.start : tail.end].lower()), (head.label, tail.label)
                )
        predictions = [_events(example.text, phrases, words, heads) for example in test]
        task = Events(Events.Config(evokers=heads), numbered(8))
        scores.append(_Fold(task, predictions, test).score())
    return scores


def _span(example: AnnotatedExample, number: int) -> Span:
    assert example.spans is not None  # a record of CASIE has them
    return example.spans[number]


def _events(text: str, phrases: Words, words: Words, heads: Sequence[str]) -> LinkPrediction:
    """The longest phrases that are known, and of each trigger those near it that have a role with its type."""
    places = [(match.start(), match.end()) for match in _WORD.finditer(text)]
    spans: list[tuple[int, int, str]] = []
    n = 0
    while n < len(places):
        for size in range(min(8, len(places) - n), 0, -1):
            start, end = places[n][0], places[n + size - 1][1]
            if (label := phrases.most((text[start:end].lower(),))) != NONE and len(text[start:end]) > 2:
                spans.append((start, end, label))
                n += size - 1
                break
        n += 1
    links = []
    for a, (start, _, label) in enumerate(spans):
        for b, (first, last, other) in enumerate(spans):
            if label in heads and other not in heads and abs(first - start) <= _NEAR:
                role = words.most((label, text[first:last].lower()), (label, other))
                links += [] if role == NONE else [(a, b, role)]
    return _prediction(spans, links)


def _example(record: Record) -> AnnotatedExample:
    return read_annotated(record, LabelledConfig(), links=True)


def _as_prediction(record: Record) -> LinkPrediction:
    example = _example(record)
    spans = [(span.start, span.end, span.label) for span in example.spans or ()]
    return _prediction(spans, [(link.head, link.tail, link.label) for link in example.links or ()])


if __name__ == "__main__":
    for name, scores in (
        ("roles en, predicates given", roles("en", True)),
        ("roles en", roles("en", False)),
        ("roles zh, predicates given", roles("zh", True)),
        ("roles zh", roles("zh", False)),
        ("events CASIE", events()),
    ):
        means = {key: np.mean([fold[key] for fold in scores]) for key in scores[0] if "/" not in key}
        print(f"{name:28}", "  ".join(f"{key} {value:.3f}" for key, value in means.items() if key.endswith("f1")))
