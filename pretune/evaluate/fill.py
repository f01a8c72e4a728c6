"""Predicts the tokens at the masks of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretune.batch import ragged
from pretune.errors import UsageError
from pretune.generate.session import context_length
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.finite import first_non_finite, non_finite
from pretune.table import rounded_text
from pretune.text.tokenizer.long_texts import Keep
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_unknown


@dataclass(frozen=True, repr=False)
class Guess:
    """A token that may stand where a mask is.

    Attributes:
        token: its text; `##ing` continues the word before it.
        probability: by the model.
        id: in the vocabulary.
    """

    token: str
    probability: float
    id: int

    def __repr__(self) -> str:
        return f"Guess({self.token!r}, {rounded_text(self.probability)})"


def fill(
    model: LanguageModel, tokenizer: Tokenizer, text: str, top: int, second: str | None = None
) -> list[list[Guess]]:
    """The most probable tokens for each mask in a text, or in a pair of texts, one list for each, best first.

    An encoder-decoder that was trained on masked texts, such as BART, reads the text on both sides: its decoder
    predicts each token after those before it.

    Raises:
        UsageError: a model or tokenizer without masks, no mask in the text, or a text that is too long.
        NonFiniteError: the model's scores are not finite.
    """
    vocabulary = tokenizer.vocabulary
    head = find_language_head(model, "masked", *(("next",) if model.has_encoder else ()))
    if head is None:
        raise UsageError(
            f"this {model.family} model has no mlm head and cannot fill masks; use a masked language "
            "model such as bert (`generate` continues a text with a model that has a clm head)"
        )
    if vocabulary.mask is None:
        raise UsageError("this tokenizer has no mask token, so there is nothing to fill")
    length = context_length(model, tokenizer)
    with say_unknown(tokenizer):
        runs = tokenizer.encode_kept([text] if second is None else [text, second], Keep(length), allow_special=True)
    if any(run.dropped for run in runs):
        raise UsageError(f"the text has more than {length} tokens, which are all that the model reads; shorten it")
    tokens, segments = vocabulary.add_special_tokens(*(run.tokens for run in runs))
    if model.has_encoder and np.isin(tokens, vocabulary.sentinels).any():
        sentinel = tokenizer.token(vocabulary.sentinels[0])
        raise UsageError(
            f"{sentinel} stands for a missing text of any length; give the text to `generate`, which fills it"
        )
    if not (tokens == vocabulary.mask).any():
        raise UsageError(f"no {tokenizer.token(vocabulary.mask)} in {text[:60]!r}; put one where a word is missing")
    if len(tokens) > length:
        raise UsageError(f"the text has {len(tokens)} tokens, the model reads {length}; shorten it")
    batch = ragged([tokens], [segments]).to(model.device)
    with inference_context(model.device, is_bf16(model)):
        rows = model(batch).last_hidden_state[batch.tokens == vocabulary.mask]
        logits = head(rows).float()
    if first_non_finite(logits) is not None:
        raise non_finite("a score of a token", 0, 1, text)
    best = logits[:, : vocabulary.size].softmax(dim=1).topk(min(top, vocabulary.size), dim=1)
    return [
        [Guess(tokenizer.decode([i], skip_special=False), p, i) for i, p in zip(ids, values, strict=True)]
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
