"""Predictions of spans and links, and what of them is compared with the truth."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict

from pretune.tasks.shared.annotated import AnnotatedExample

SpanKey = tuple[int, int, str]
"""Start, end and label of a span."""


class PredictedSpan(TypedDict):
    """A span: characters of the text, the end exclusive; its probability where it was not given."""

    start: int
    end: int
    label: str
    text: str
    probability: NotRequired[float]


class PredictedLink(TypedDict):
    """What stands between two spans, by their numbers among those of the prediction."""

    head: int
    tail: int
    label: str
    probability: float


class LinkPrediction(TypedDict):
    """The spans of a text, in order, and the links between them, where those were looked for."""

    spans: list[PredictedSpan]
    links: NotRequired[list[PredictedLink]]


class Items(NamedTuple):
    """The spans and links of a text in a form that can be compared: a label, and what else must agree.

    Attributes:
        spans: label, and start and end.
        links: label, and head and tail.
    """

    spans: list[tuple[str, tuple[int, int]]]
    links: list[tuple[str, tuple[SpanKey, SpanKey]]]


def true_items(example: AnnotatedExample) -> Items:
    """Those of an example."""
    keys = [(span.start, span.end, span.label) for span in example.spans or ()]
    return _items(keys, [(link.head, link.tail, link.label) for link in example.links or ()])


def predicted_items(prediction: LinkPrediction) -> Items:
    """Those of a prediction."""
    keys = [(span["start"], span["end"], span["label"]) for span in prediction["spans"]]
    return _items(keys, [(link["head"], link["tail"], link["label"]) for link in prediction["links"]])


def _items(keys: Sequence[SpanKey], links: Sequence[tuple[int, int, str]]) -> Items:
    return Items(
        [(label, (start, end)) for start, end, label in keys],
        [(label, (keys[head], keys[tail])) for head, tail, label in links],
    )


def predicted_spans(text: str, spans: Sequence[tuple[SpanKey, float | None]]) -> list[PredictedSpan]:
    """Spans of a text as a prediction has them.

    Args:
        spans: with their probabilities; None where they were given.
    """
    out: list[PredictedSpan] = []
    for (start, end, label), probability in spans:
        span: PredictedSpan = {"start": start, "end": end, "label": label, "text": text[start:end]}
        out.append(span if probability is None else {**span, "probability": probability})
    return out


def describe(prediction: LinkPrediction) -> dict[str, object]:
    """The spans and links of a prediction in few words, for a terminal."""
    texts = [span["text"] for span in prediction["spans"]]
    return {
        "spans": ", ".join(f"{span['text']} ({span['label']})" for span in prediction["spans"]),
        "links": ", ".join(
            f"{link['label']}({texts[link['head']]}, {texts[link['tail']]})" for link in prediction["links"]
        ),
    }


def without_overlaps(spans: Sequence[tuple[SpanKey, float]]) -> list[int]:
    """The numbers of spans that stay where none may share a character with another: the most probable first."""
    taken: list[tuple[int, int]] = []  # ascending
    kept: list[int] = []
    for n in sorted(range(len(spans)), key=lambda number: (-spans[number][1], number)):
        (start, end, _), _ = spans[n]
        after = bisect(taken, (start, start))
        is_free = (not after or taken[after - 1][1] <= start) and (after == len(taken) or end <= taken[after][0])
        if is_free:
            taken.insert(after, (start, end))
            kept.append(n)
    return sorted(kept)
