"""The spans that tagged records hold: read from tags by their scheme, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pretune.errors import DataError
from pretune.tasks.shared.annotated import AnnotatedExample
from pretune.tasks.shared.units import edges_inside_words
from pretune.text.annotation import Span, describe_span, find_overlap
from pretune.text.schemes import Scheme, detect_scheme, find_break, read_chunks

_TOO_MANY = 0.01  # of the spans, end inside words, so that tokens are units


def check_flat(example: AnnotatedExample, scheme: Scheme | None) -> None:
    """Refuses spans that overlap, and tags that a scheme forbids; no scheme forbids none.

    Raises:
        DataError: place, spans or words, and what to do.
    """
    spans = example.spans or ()
    if (pair := find_overlap(spans)) is not None:
        first, second = (f"{describe_span(spans[n], example.text)}" for n in pair)
        raise DataError(
            f"{example.origin}: spans[{pair[0]}] = {first} overlaps spans[{pair[1]}] = {second}; a word has one tag: "
            "leave one of the two out, or use --task nested"
        )
    if scheme is not None and example.tags is not None and (n := find_break(example.tags, scheme)) is not None:
        assert example.words is not None  # there are no tags without words
        word = example.text[slice(*example.words[n])]
        neighbour = f"behind {example.tags[n - 1]!r}" if n else "at the beginning"
        raise DataError(
            f"{example.origin}: tags[{n}] = {example.tags[n]!r} of {word[:40]!r} {neighbour}, which {scheme} does not "
            f"allow; correct the tag, or set task.tagging.read_scheme to the scheme of the data"
        )


def tagged_spans(example: AnnotatedExample, scheme: Scheme | None) -> list[Span] | None:
    """The spans of an example, of its tags where it has no others; None where they are not known.

    Args:
        scheme: of the tags; by default as these look.
    """
    if example.spans is not None:
        return list(example.spans)
    if example.tags is None or example.words is None:
        return None
    chunks = read_chunks(example.tags, scheme or detect_scheme([example.tags]))
    words = example.words
    return [Span(words[first][0], words[stop - 1][1], label) for first, stop, label in chunks]


def known_spans(example: AnnotatedExample, scheme: Scheme | None) -> list[Span]:
    """The spans of an example, which must be known, and whose tags must be as their scheme wants.

    Raises:
        DataError: they are not.
    """
    check_flat(example, scheme)
    spans = tagged_spans(example, scheme)
    if spans is None:
        raise DataError(f"{example.origin}: no spans and no tags; every example needs them here")
    return spans


def choose_units(examples: Sequence[AnnotatedExample], spans: Sequence[Sequence[Span]]) -> Literal["words", "tokens"]:
    """What has a tag: words, unless too many spans of texts without words end inside those that are found."""
    bare = [(example.text, part) for example, part in zip(examples, spans, strict=True) if example.words is None]
    total = sum(len(part) for _, part in bare)
    inside = sum(edges_inside_words(text, part) for text, part in bare)
    return "tokens" if inside > _TOO_MANY * total else "words"


def unseen_label(example: AnnotatedExample, span: Span, labels: Sequence[str], problem: str) -> DataError:
    """The error of a span whose label is not known."""
    known = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    return DataError(
        f"{example.origin}: span {describe_span(span, example.text)}: the label {problem}; known labels: {known}; "
        "correct the label, or add such spans to the training data"
    )
