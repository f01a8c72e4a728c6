"""Reads the vocabulary of a tokenizer.json, of a vocab.txt, and of a vocab.json with its merges.txt."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from pretune.errors import DataError, MissingInputError
from pretune.field_table import check_size, read_file
from pretune.text.tokenizer.classes import Merges, Parts, Vocab
from pretune.text.tokenizer.layout_check import FILE_LIMIT, check_subwords
from pretune.text.tokenizer.library import UNREADABLE, library_errors
from pretune.text.tokenizer.vocabulary import stages


def _model_type(where: Path) -> str:
    with library_errors(f"{where}: {UNREADABLE}"):
        return type(tokenizers.Tokenizer.from_file(str(where)).model).__name__


def parts_of_layout(where: Path, layout: Mapping[str, Any], name: str, model: str, values: dict[str, Any]) -> Parts:
    """What a class takes from tokenizer.json: vocabulary, merges, what stands around a text, a normalization table.

    Raises:
        DataError: a model of another kind than that of the class, or of another form.
    """
    own = layout["model"]
    model_type = own.get("type") or _model_type(where)  # files of the first releases leave it out
    if model_type != model:
        raise DataError(
            f"{where}: field 'model.type' = {model_type!r}: {name}, which the files name, makes a {model} of its "
            "vocabulary; name PreTrainedTokenizerFast as tokenizer_class, or add the tokenizer.json of that class"
        )
    if not isinstance(own.get("vocab"), list if model == "Unigram" else dict):
        raise DataError(f"{where}: field 'model.vocab' is not the vocabulary of a {model}; {UNREADABLE}")
    with library_errors(f"{where}: {UNREADABLE}"):
        vocab: Vocab = [(token, score) for token, score in own["vocab"]] if model == "Unigram" else dict(own["vocab"])
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in own.get("merges") or ())
        merges: Merges = [(left, right) for left, right in pairs]
        bare = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "post_processor": layout.get("post_processor")}
        post_processor = tokenizers.Tokenizer.from_str(json.dumps({"added_tokens": [], **bare})).post_processor
    tables = (step.get("precompiled_charsmap") for step in stages(layout.get("normalizer"), "normalizers"))
    table = next((table for table in tables if table), None)
    charsmap = base64.b64decode(table) if isinstance(table, str) else None
    return Parts(str(where), values, vocab, merges, charsmap, post_processor)


def read_lines(file: Path) -> dict[str, int]:
    """The tokens of a vocab.txt, one per line."""
    try:
        read_file(file, FILE_LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; a vocab.txt has one token per line") from None
    with library_errors(f"{file}: not a vocab.txt"):
        vocab = dict(models.WordPiece.read_file(str(file)))
    check_subwords(file, vocab)
    return vocab


def compare_merges(path: Path, merges: Merges, written: Sequence[Any]) -> None:
    """Refuses a merges.txt whose merges are not those of tokenizer.json."""
    others = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in written]
    for number, (own, other) in enumerate(zip_longest(merges, others), 1):
        if own != other:
            raise DataError(
                f"{path}: merge {number} is {own}, and {other} in tokenizer.json beside it; remove the file that does "
                "not belong to the model"
            )


def read_merges(file: Path) -> tuple[Vocab, Merges]:
    merges = file.with_name("merges.txt")
    if not merges.is_file():
        raise MissingInputError(f"{file}: no merges.txt beside it, which a vocab.json goes with; add it")
    for path in (file, merges):
        check_size(path, FILE_LIMIT)
    with library_errors(f"{file}: not a vocab.json with its merges.txt"):
        vocab, pairs = models.BPE.read_file(str(file), str(merges))
    check_subwords(file, vocab, pairs)
    return dict(vocab), [(left, right) for left, right in pairs]
