"""How many tokens of a prompt poolings leave out, and whether these reach into the texts behind it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pretune.text.tokenizer.long_texts import Keep
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import Tokens
from pretune.wording import counted

_SAMPLE = 100  # texts that are looked at: whether a border is crossed hangs on the prompt's end, hardly on the text
_log = logging.getLogger("pretune")


def prompt_tokens(tokenizer: Tokenizer, prompt: str, length: int) -> Tokens:
    """The tokens of a prompt alone, with what stands before them and without a special token at their end.

    `sentence-transformers` counts these and leaves as many rows out, whatever the whole text's first tokens are.

    Args:
        length: tokens that a text may have, special ones included.
    """
    vocabulary = tokenizer.vocabulary
    run = vocabulary.add_special_tokens(tokenizer.encode(prompt)[: length - vocabulary.overhead(False)])[0]
    return run[: len(run) - int(len(run) > 0 and bool(vocabulary.special[run[-1]]))]


def say_joined(tokenizer: Tokenizer, prompt: str, texts: Sequence[str], length: int) -> None:
    """Warns of texts that do not begin with the prompt's own tokens, as one token holds the end of it and their begin.

    With byte-level BPE the blank that ends "query: " is a token of its own there, and a part of " hello" in the whole:
    one token too many is left out.
    """
    wanted, vocabulary, looked = prompt_tokens(tokenizer, prompt, length), tokenizer.vocabulary, texts[:_SAMPLE]
    encoded = tokenizer.encode_batch([prompt + text for text in looked], keep=Keep(length))
    begins = [vocabulary.add_special_tokens(tokens)[0][: len(wanted)] for tokens in encoded]
    joined = sum(len(begin) == len(wanted) and bool((begin != wanted).any()) for begin in begins)
    if joined:
        _log.warning(
            "%s of %s share a token with the end of the prompt %r: their first tokens are left out of their vectors "
            "with it, as by sentence-transformers; put the blank, or whatever ends the prompt, before the texts",
            f"{joined:,}",
            f"the first {counted(len(looked), 'text')}" if len(texts) > len(looked) else counted(len(looked), "text"),
            prompt[-40:],
        )
