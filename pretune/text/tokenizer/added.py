"""Adds to a backend the special and the added tokens that files name, and checks that each gets the id stated for it.

The `tokenizers` library numbers added tokens itself: one whose text is in the vocabulary has the id that it has there,
the others go on where the vocabulary ends. A file that says otherwise is refused, since the rows of the model belong
to the ids that it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from pretune.errors import DataError
from pretune.text.tokenizer.sources import ATTRIBUTES, SpecialTokens, StatedToken, content_of

_ORDER = {name: n for n, name in enumerate(ATTRIBUTES)}


def add_tokens(
    backend: tokenizers.Tokenizer,
    tokens: SpecialTokens,
    roles: Mapping[str, str | AddedToken | None],
    control: Sequence[AddedToken] | None = None,
    again: bool = False,
) -> dict[str, str | None]:
    """Adds tokens in the order of `transformers`: those with stated ids, named ones, others.

    Args:
        roles: special tokens that the tokenizer's class names where no file does.
        control: special tokens of the model file or of the class, where the settings list none.
        again: all special tokens are added a second time, without the flags that files give them.

    Returns:
        The special token of each role; None where the files say that there is none.

    Raises:
        DataError: a token that cannot have the id that a file states.
    """
    both = {**roles, **tokens.named}
    named = {name: both[name] for name in sorted(both, key=lambda name: _ORDER.get(name, len(_ORDER)))}
    extra = tokens.extra if "extra_special_tokens" in tokens.values else control or tokens.additional
    wanted: list[str | AddedToken] = [entry.token for entry in tokens.stated]
    contents = {content_of(token) for token in (*wanted, *backend.get_added_tokens_decoder().values())}
    present = set(wanted)
    for token in (*named.values(), *(extra or ())):  # one text with other flags a second time has the last ones
        if token is not None and content_of(token) and content_of(token) not in contents and token not in present:
            wanted.append(token)
            present.add(token)
    stated = {
        content_of(token) for token in (*tokens.named.values(), *(extra or ()), *(e.token for e in tokens.stated))
    }
    by_class = {content_of(token) for token in roles.values() if token is not None} - stated
    wanted = _without_strangers(backend, wanted, by_class)
    special = {content_of(token) for token in named.values() if token is not None}
    if wanted:
        backend.add_tokens([_flagged(token, special) for token in wanted])
    if again:
        known = backend.get_vocab(with_added_tokens=True)
        again_added = dict.fromkeys((*special, *map(content_of, extra or ())))
        backend.add_tokens([AddedToken(name, special=True) for name in again_added if name in known])
    check_ids(backend, tokens.stated)
    names = {name: None if token is None else content_of(token) for name, token in named.items()}
    return {
        name: text
        for name, text in names.items()
        if (name in tokens.named if text is None else backend.token_to_id(text) is not None)
    }


def check_ids(backend: tokenizers.Tokenizer, stated: Sequence[StatedToken]) -> None:
    """Refuses ids that the vocabulary does not go on with, and two tokens of one id.

    Raises:
        DataError: naming file, token, id and remedy.
    """
    for entry in stated:
        content, number = entry.token.content, backend.token_to_id(entry.token.content)
        if number != entry.id:
            size = backend.get_vocab_size(with_added_tokens=True)
            raise DataError(
                f"{entry.where}: {content!r} = {entry.id}: this id is not free or leaves a gap: the token would have "
                f"{number}, of {size}; number added tokens from the end of the vocabulary on, each once"
            )
    table = backend.get_vocab(with_added_tokens=True)
    number, count = next(iter(Counter(table.values()).most_common(1)), (0, 1))
    if count > 1:
        both = sorted(token for token, i in table.items() if i == number)
        where = stated[0].where if stated else "the vocabulary"
        raise DataError(
            f"{where}: the tokens {both} have one id, {number}: the vocabulary has a gap; give each its own"
        )


def check_normalized(where: Path, backend: tokenizers.Tokenizer) -> None:
    """Refuses an added token of which normalization leaves nothing: the library would look for it everywhere.

    Raises:
        DataError: naming the token and the remedy.
    """
    if backend.normalizer is None:
        return
    for number, token in backend.get_added_tokens_decoder().items():
        if token.normalized and not backend.normalizer.normalize_str(token.content):
            raise DataError(
                f"{where}: the added token {token.content!r} = {number}: normalization leaves nothing of it; set its "
                "'normalized' to false, or remove the token"
            )


def _without_strangers(
    backend: tokenizers.Tokenizer, wanted: list[str | AddedToken], by_class: Container[str]
) -> list[str | AddedToken]:
    """Leaves out tokens that the class names and the vocabulary lacks, as no text and no model knows them.

    One behind which others get new ids stays, since theirs count on it.
    """
    kept: list[str | AddedToken] = []
    counted = False
    for token in reversed(wanted):
        is_new = backend.token_to_id(content_of(token)) is None
        if counted or not (is_new and content_of(token) in by_class):
            kept.append(token)
            counted |= is_new
    return kept[::-1]


def _flagged(token: str | AddedToken, special: Container[str]) -> AddedToken:
    """A token that is special if it has a name."""
    if isinstance(token, str):
        return AddedToken(token, special=True)
    token.special = token.special or token.content in special
    return token
