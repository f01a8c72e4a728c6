"""The tokenizers of the Marian translators, made into one of `tokenizers`.

Their vocab.json has the ids of the pieces of both languages. source.spm cuts what is read, a Unigram; what is written
comes back from the pieces alone. A piece of the other language is taken only where no piece of source.spm will do, so
that a text to read has the ids that `transformers.MarianTokenizer` gives it. The limits, which are said: texts to learn
to write are cut by source.spm as well and not by target.spm; a run of characters that source.spm does not know is cut
into pieces of the other language, where there it is one unknown token or one piece; a language code counts anywhere,
where there only at the beginning; and a piece of source.spm without an id is not used, where there it would be the
unknown token.

Source: Junczys-Dowmunt et al. 2018, arXiv 1804.00344; Tiedemann and Thottingal 2020 (OPUS-MT) for the files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, processors

from pretune.errors import DataError
from pretune.text.tokenizer import sentencepiece
from pretune.text.tokenizer.layout_check import check_subwords

LIMITS = (
    "source.spm cuts what is written too, and characters that it does not know are cut into pieces of vocab.json one "
    "by one; `transformers` takes target.spm, and one unknown token for a run of them"
)
log = logging.getLogger(__name__)
SOURCE = "source.spm"
_SPECIAL = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}
_NEVER = -1e6  # the score of a piece that loses to any cut without it


def read_marian(folder: Path, vocab: Any, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A backend from vocab.json and source.spm.

    Args:
        vocab: the parsed vocab.json.
        settings: the values of tokenizer_config.json.

    Raises:
        MissingPackageError: the extra for sentencepiece is not installed.
        DataError: files that do not belong together, a vocabulary for each side, or a kind that is not Unigram.
    """
    names = _names(folder / "vocab.json", vocab)
    check_subwords(folder / "vocab.json", vocab)
    if settings.get("separate_vocabs"):
        raise DataError(f"{folder}: separate_vocabs: a vocabulary for each side is not known here, only a shared one")
    special = {role: sentencepiece.token_of(settings, role, usual) for role, usual in _SPECIAL.items()}
    for role, usual in _SPECIAL.items():
        if special[role] != usual or settings.get(f"{role}_token", usual) is None:
            raise DataError(
                f"{folder / 'tokenizer_config.json'}: field '{role}_token': Marian's is {usual}; remove the field, "
                "or save its tokenizer.json with tokenizer_class PreTrainedTokenizerFast"
            )
    missing = [name for name in special.values() if name not in vocab]
    if missing:
        raise DataError(f"{folder / 'vocab.json'}: {missing[0]!r} is not in it")
    path = folder / SOURCE
    proto = sentencepiece.read_proto(path)
    if proto.trainer_spec.model_type != sentencepiece.UNIGRAM:
        raise DataError(f"{path}: model type {proto.trainer_spec.model_type}: expected unigram")
    scores = {
        piece.piece: score
        for piece, score in zip(proto.pieces, sentencepiece.scores_of(proto.pieces), strict=True)
        if piece.type in (sentencepiece.NORMAL, sentencepiece.USER)
    }
    lost = sum(piece not in vocab for piece in scores)
    if lost:
        log.warning(f"{path}: {lost} of {len(scores)} pieces have no id in vocab.json and are not used")
    scored = [(name, scores.get(name, _NEVER)) for name in names]
    check_subwords(folder / "vocab.json", scored)
    model = models.Unigram(scored, unk_id=vocab[special["unk"]])
    backend = sentencepiece.with_rules(path, tokenizers.Tokenizer(model), proto)
    backend.add_special_tokens(list(special.values()))
    codes = [name for name in names if name.startswith(">>") and name.endswith("<<")]  # which language to write
    backend.add_tokens([tokenizers.AddedToken(code, normalized=False) for code in codes])
    eos = special["eos"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A:0 {eos}:0", pair=f"$A:0 $B:0 {eos}:0", special_tokens=[(eos, vocab[eos])]
    )
    return backend


def _names(path: Path, vocab: Any) -> list[str]:
    """The pieces in the order of their ids."""
    if not isinstance(vocab, dict) or sorted(vocab.values(), key=str) != sorted(range(len(vocab)), key=str):
        raise DataError(f"{path}: expected an object of pieces and their ids, each id from 0 on once")
    return sorted(vocab, key=vocab.__getitem__)
