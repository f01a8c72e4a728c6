"""The words of labels as tokens, and prompts as the tokens before and behind a word.

A word's tokens are those that it has in its prompt, behind the characters before it: ` good`, and not `good`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.find import nearest
from pretune.prompts.prompt import Prompt, Rendered
from pretune.text.tokenizer.tokenizer import Tokenizer

Ints = NDArray[np.int64]
_SAMPLE = "this"  # a text in which words are encoded


class Around(NamedTuple):
    """A rendered prompt as tokens.

    Attributes:
        before: (n,) before the word.
        word: (k,) of the word.
        after: (m,) behind it.
    """

    before: Ints
    word: Ints
    after: Ints


@dataclass(frozen=True)
class LabelWords:
    """The words of all labels.

    Attributes:
        labels: in the order of their numbers.
        texts: the words, those of the first label first.
        tokens: of each word.
        owners: (W,) the number of each word's label.
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: tuple[Ints, ...]
    owners: Ints

    @property
    def max_length(self) -> int:
        """Tokens of the longest word."""
        return max(map(len, self.tokens))

    def first_of(self, label: int) -> Ints:
        """Tokens of the first word of a label, by its number. Shape: return: (k,)"""
        return self.tokens[int(np.flatnonzero(self.owners == label)[0])]

    def sizes(self, unit: str) -> Ints:
        """How long each word is: by `tokens`, by `bytes`, or 1 by anything else. Shape: return: (W,)"""
        if unit == "tokens":
            return np.array([len(run) for run in self.tokens])
        return np.array([len(text.strip().encode()) if unit == "bytes" else 1 for text in self.texts])


def check_labels(prompt: Prompt, labels: Sequence[str], where: str) -> None:
    """Refuses labels without words.

    Args:
        where: what the prompt is called, for messages.

    Raises:
        UsageError: fewer than two labels, or one twice; a prompt that names words, but none for a label; two labels
            with the same word; a word twice.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise UsageError(f"labels: expected at least two different labels, got {', '.join(labels) or 'none'}")
    for label in labels if prompt.words else ():
        if label not in prompt.words:
            near = nearest(label, list(prompt.words))
            raise UsageError(
                f"prompt {where}: no word for the label {label!r}; it has words for "
                f"{', '.join(list(prompt.words)[:20])}{f' (did you mean {near!r}?)' if near else ''}: say its word, as "
                f"in --labels {label}=WORD or in a prompt of your own (a .toml file), or use the prompt plain"
            )
    owner: dict[str, str] = {}
    for label in labels:
        for word in prompt.words_of(label):
            if owner.get(word) == label:
                raise UsageError(f"prompt {where}: the word {word!r} stands twice for {label!r}; leave one of them out")
            if word in owner:
                raise UsageError(
                    f"prompt {where}: the word {word!r} stands for {owner[word]!r} and for {label!r}, so that nothing "
                    "tells them apart; choose another word for one of them"
                )
            owner[word] = label


def encode_words(
    prompt: Prompt, labels: Sequence[str], tokenizer: Tokenizer, where: str, *, has_after: bool
) -> LabelWords:
    """The words of labels as a tokenizer writes them in a prompt.

    Args:
        where: what the prompt is called, for messages.
        has_after: the model reads what stands behind the word.

    Raises:
        UsageError: as `check_labels`; a word that the tokenizer does not know; one whose tokens begin with those of
            another label's; one that its tokens do not part from what stands around.
    """
    check_labels(prompt, labels, where)
    pairs = [(n, word) for n, label in enumerate(labels) for word in prompt.words_of(label)]
    rendered = prompt.render(_SAMPLE, _SAMPLE)
    rendered = rendered if has_after else replace(rendered, after="")
    tokens = []
    for _, word in pairs:
        (around,) = encode_around([rendered], word, tokenizer, where)
        if tokenizer.vocabulary.unk in around.word.tolist():
            raise UsageError(
                f"prompt {where}: the tokenizer does not know the word {word!r}; choose a word that it knows, or a "
                "model with a tokenizer for this language"
            )
        tokens.append(around.word)
    owners = np.array([n for n, _ in pairs])
    texts = tuple(word for _, word in pairs)
    _check_beginnings(texts, tokens, owners, where)
    return LabelWords(tuple(labels), texts, tuple(tokens), owners)


def _check_beginnings(texts: Sequence[str], tokens: Sequence[Ints], owners: Ints, where: str) -> None:
    """Refuses words of which one begins with another: it could never be the more probable one."""
    runs = [tuple(run.tolist()) for run in tokens]
    for n, run in enumerate(runs):
        for m, other in enumerate(runs):
            if n != m and other[: len(run)] == run:
                same = "the same tokens as" if run == other else "the beginning of"
                raise UsageError(
                    f"prompt {where}: the word {texts[n]!r} is {same} {texts[m]!r}, so that it is never the less "
                    "probable one; choose other words, none of which another begins with"
                )


def encode_around(rendered: Sequence[Rendered], word: str, tokenizer: Tokenizer, where: str) -> list[Around]:
    """Prompts as tokens, each with a word at the label's place.

    Args:
        where: what the prompt is called, for messages.

    Raises:
        UsageError: a token is part of the word and of what stands beside it.
    """
    texts = [each.before + word + each.after for each in rendered]
    if any(each.special is not None for each in rendered):
        encoded = tokenizer.encode_templated(texts, [each.special or () for each in rendered])
    else:
        encoded = tokenizer.encode_kept(texts)
    out = []
    for each, (tokens, offsets, *_) in zip(rendered, encoded, strict=True):
        start, stop = len(each.before.rstrip(" ")), len(each.before) + len(word)
        first = int(np.searchsorted(offsets[:, 1], start, side="right"))
        last = max(first, int(np.searchsorted(offsets[:, 0], stop)))
        run = tokens[first:last]
        is_apart = len(run) and offsets[first, 0] >= start and offsets[last - 1, 1] <= stop
        if not is_apart:
            raise UsageError(
                f"prompt {where}: no token begins and ends with the word {word!r} in "
                f"{(each.before[-20:] + word + each.after[:10])!r}; put a space or a line break around {{label}}"
            )
        out.append(Around(tokens[:first], run, tokens[last:]))
    return out
