"""How likely texts are behind the words of labels: the noisy channel, which is joined with what a prompt is answered.

    prompt   Review: a gripping film     Sentiment: positive     log p(label | text)
    channel  The review is positive: a gripping film              log p(text | label)

The errors of both are not the same, so their sum is often right where one of them is not.

Source: Min et al. 2022, "Noisy channel language model prompting" (arXiv 2108.04106), the channel alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.generate.choices import EncodedPair, encode_pairs, score_pairs
from pretune.models.model import LanguageModel
from pretune.prompts.pool import Floats
from pretune.prompts.prompt import Prompt
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.text.tokenizer.tokenizer import Tokenizer


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
    texts = list(dict.fromkeys((each.text, each.second) for each in examples if each.text.strip()))
    words = [(number, word) for number, label in enumerate(labels) for word in form.words_of(label)]
    pairs = encode_pairs(
        model, tokenizer, [form.in_channel(word, *text) for text in texts for _, word in words], special_tokens=False
    )
    by_text = [pairs[start : start + len(words)] for start in range(0, len(pairs), len(words))]
    cut = [pair for own in by_text for pair in _cut(own, length, model.has_encoder)]
    log_probs = [each.log_prob for each in score_pairs(model, tokenizer, cut)]
    by_word = np.array(log_probs, np.float64).reshape(len(texts), len(words))
    by_label = np.stack(
        [_mean(by_word[:, [n for n, (own, _) in enumerate(words) if own == number]]) for number in range(len(labels))],
        axis=1,
    )
    known = dict(zip(texts, by_label, strict=True))
    nothing = np.zeros(len(labels))
    return np.array([known.get((each.text, each.second), nothing) for each in examples]).reshape(-1, len(labels))


def _cut(pairs: Sequence[EncodedPair], length: int, are_apart: bool) -> list[EncodedPair]:
    """The pairs of one text, with as many of its tokens as have room behind the longest context."""
    room = length if are_apart else length - max(len(pair.context) for pair in pairs)
    return [EncodedPair(pair.context, pair.continuation[: max(room, 1)]) for pair in pairs]


def _mean(log_probs: Floats) -> Floats:
    """The logarithm of the mean of probabilities. Shape: (n, w) -> (n,)"""
    return np.asarray(np.logaddexp.reduce(log_probs, axis=1) - np.log(log_probs.shape[1]))
