"""How likely texts are behind the words of labels: the noisy channel, which is joined with what a prompt is answered.

    prompt   Review: a gripping film     Sentiment: positive     log p(label | text)
    channel  The review is positive: a gripping film              log p(text | label)

The errors of both are not the same, so their sum is often right where one of them is not. Solved examples stand before
the text in the form of the channel, each behind its label.

Source: Min et al. 2022, "Noisy channel language model prompting" (arXiv 2108.04106), the channel alone; examples in one
context as in its "concat-based demonstrations".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretune.generate.choices import EncodedPair, encode_pairs, score_pairs
from pretune.models.model import LanguageModel
from pretune.prompts.pool import Floats
from pretune.prompts.prompt import Prompt, Solved
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

_log = logging.getLogger("pretune")


def channel_scores(
    model: LanguageModel,
    tokenizer: Tokenizer,
    form: Prompt,
    labels: Sequence[str],
    examples: Sequence[PromptedExample],
    length: int,
) -> Floats:
    """The log probability of each text behind each label, in nats; several words of a label are averaged.

    Args:
        form: has a channel.
        length: tokens that the model reads; of a longer text the beginning counts, the same for all labels.

    Returns:
        Shape: (n, C); 0 for a text of spaces.

    Raises:
        UsageError: a model without a language head.
        DataError: a text that adds no token to what stands before it.
    """
    words = [(number, word) for number, label in enumerate(labels) for word in form.words_of(label)]
    texts = dict.fromkeys((each.text, each.second, each.solved) for each in examples if each.text.strip())
    asked = _Asked(model, tokenizer, form, [word for _, word in words], length)
    pairs = [pair for own in asked.encode([_Text(*text) for text in texts]) for pair in own]
    by_word = np.array([each.log_prob for each in score_pairs(model, tokenizer, pairs)], np.float64)
    by_word = by_word.reshape(len(texts), len(words))
    by_label = np.stack(
        [_mean(by_word[:, [n for n, (own, _) in enumerate(words) if own == number]]) for number in range(len(labels))],
        axis=1,
    )
    known = dict(zip(texts, by_label, strict=True))
    nothing = np.zeros(len(labels))
    found = [known.get((each.text, each.second, each.solved), nothing) for each in examples]
    return np.array(found).reshape(-1, len(labels))


class _Text(NamedTuple):
    """A text with the solved examples before it, the least important first."""

    text: str
    second: str | None
    solved: tuple[Solved, ...]


@dataclass(frozen=True)
class _Asked:
    """How texts are asked for.

    Attributes:
        words: of all labels.
        length: tokens that the model reads.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    form: Prompt
    words: Sequence[str]
    length: int

    def encode(self, texts: Sequence[_Text]) -> list[list[EncodedPair]]:
        """The pairs of each text, one for each word, cut to what the model reads.

        The least important examples go where there is no room for all, as in the prompt, and then the text's end.
        """
        out: list[list[EncodedPair]] = [[] for _ in texts]
        pending, shortened = dict(enumerate(texts)), set[int]()
        while pending:
            strings = [self._string(word, text) for text in pending.values() for word in self.words]
            pairs = encode_pairs(self.model, self.tokenizer, strings, special_tokens=False)
            for place, (n, text) in enumerate(list(pending.items())):
                own = pairs[place * len(self.words) : (place + 1) * len(self.words)]
                if text.solved and not self._fits(own):
                    pending[n] = text._replace(solved=text.solved[1:])
                    shortened.add(n)
                else:
                    out[n] = self._cut(own)
                    del pending[n]
        if shortened:
            _log.warning(
                "the channel is longer than the %s tokens that the model reads, so solved examples were left out of it "
                "before %s, the least similar first; ask for fewer with --shot-count",
                f"{self.length:,}",
                counted(len(shortened), "text"),
            )
        return out

    def _string(self, word: str, text: _Text) -> tuple[str, str]:
        """What stands before a text behind a word, and the text."""
        before, own = self.form.in_channel(word, text.text, text.second)
        solved = ["".join(self.form.in_channel(each.word, each.text, each.second)) for each in text.solved]
        return self.form.separator.join([*solved, before]), own

    def _fits(self, pairs: Sequence[EncodedPair]) -> bool:
        sides = (max(map(len, pair)) if self.model.has_encoder else sum(map(len, pair)) for pair in pairs)
        return max(sides) <= self.length

    def _cut(self, pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
        """The pairs of one text, with as many of its tokens as have room behind the longest context."""
        room = self.length if self.model.has_encoder else self.length - max(len(pair.context) for pair in pairs)
        return [EncodedPair(pair.context, pair.continuation[: max(room, 1)]) for pair in pairs]


def _mean(log_probs: Floats) -> Floats:
    """The logarithm of the mean of probabilities. Shape: (n, w) -> (n,)"""
    return np.asarray(np.logaddexp.reduce(log_probs, axis=1) - np.log(log_probs.shape[1]))
