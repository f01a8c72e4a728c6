"""The model folder of a TF-IDF classifier: `config.json`, `model.safetensors`, and the n-grams as `ngrams.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tokenizers
import torch
from safetensors.numpy import load_file

from pretune.baselines.linear import LinearClassifier
from pretune.baselines.ngrams import Ngrams, Unit
from pretune.baselines.tfidf import TfidfClassifier
from pretune.config import Config, validate
from pretune.errors import DataError, UsageError
from pretune.field_table import parse_json, read_file
from pretune.interop.huggingface import model_folder
from pretune.interop.metadata import FIELD, parse
from pretune.interop.safety import member, read_header, read_json
from pretune.interop.sealed_model import checks_model
from pretune.interop.weights import write_json, write_weights
from pretune.models.metadata import Metadata
from pretune.text.tokenizer.tokenizer import Tokenizer

TFIDF = "tfidf"
"""The `model_type` of such a folder, and what `--model` calls it."""
_NGRAMS, _WEIGHTS = "ngrams.json", "model.safetensors"
_LIMIT = 1 << 30  # bytes of the n-grams, and of a file of weights


class TfidfConfig(Config):
    """What `config.json` says of a TF-IDF classifier.

    Attributes:
        labels: what it decides among.
        unit: what an n-gram is made of: `word` or `char`.
        min_size, max_size: of the n-grams.
        is_paired: its texts are pairs.
    """

    labels: tuple[str, ...]
    unit: Unit
    min_size: int
    max_size: int
    is_paired: bool = False


def is_tfidf(path: Path) -> bool:
    """Whether a path is the folder of a TF-IDF classifier."""
    config = path / "config.json"
    return (path / _NGRAMS).is_file() and config.is_file() and read_json(config).get("model_type") == TFIDF


def save_tfidf(classifier: TfidfClassifier, metadata: Metadata, path: Path) -> None:
    """Writes the folder; it is complete or not there.

    Args:
        metadata: which task it was trained for, and which columns it read.

    Raises:
        StorageError, CannotCreateError: as `model_folder`.
    """
    ngrams, linear = classifier.ngrams, classifier.linear
    config = TfidfConfig(
        labels=tuple(linear.labels),
        unit=ngrams.unit,
        min_size=ngrams.sizes[0],
        max_size=ngrams.sizes[1],
        is_paired=ngrams.is_paired,
    )
    fields: dict[str, object] = {"model_type": TFIDF, "architectures": [type(classifier).__name__]}
    fields |= {TFIDF: config.model_dump(mode="json"), FIELD: metadata.model_dump(mode="json", exclude_none=True)}
    arrays = {"idf": ngrams.idf, "weight": linear.weight, "bias": linear.bias}
    with model_folder(path) as folder:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        write_weights(folder, tensors, _LIMIT)
        write_json(folder / _NGRAMS, ngrams.terms)
        write_json(folder / "config.json", fields)


@checks_model
def load_tfidf(path: Path | str) -> tuple[TfidfClassifier, Metadata]:
    """Reads the folder.

    Raises:
        MissingInputError: a file is not there.
        DataError: a file was changed, or does not fit the others.
    """
    folder = Path(path)
    fields = read_json(folder / "config.json")
    try:
        config = validate(TfidfConfig, fields.get(TFIDF, {}), TFIDF)
    except UsageError as error:
        raise DataError(f"{folder / 'config.json'}: {error}; train it again") from None
    terms = parse_json(read_file(folder / _NGRAMS, _LIMIT), str(folder / _NGRAMS))
    read_header(member(folder, _WEIGHTS, str(folder)))
    arrays = load_file(folder / _WEIGHTS)
    _check(folder, config, terms, arrays)
    ngrams = Ngrams(config.unit, (config.min_size, config.max_size), terms, arrays["idf"], config.is_paired)
    linear = LinearClassifier(list(config.labels), arrays["weight"], arrays["bias"])
    return TfidfClassifier(ngrams, linear), parse(folder / "config.json", fields)


def _check(folder: Path, config: TfidfConfig, terms: object, arrays: Mapping[str, np.ndarray[tuple[int, ...]]]) -> None:
    """Refuses files that do not belong together.

    Raises:
        DataError: such files, or a number that is not finite.
    """
    count = len(terms) if isinstance(terms, list) and all(isinstance(term, str) for term in terms) else -1
    shape = (len(config.labels), count * (4 if config.is_paired else 1))
    expected = {"idf": (count,), "weight": shape, "bias": shape[:1]}
    actual = {name: array.shape for name, array in arrays.items()}
    if actual != expected or not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError(f"{folder}: its files do not fit each other: expected {expected}, got {actual}; train it again")


def empty_tokenizer() -> Tokenizer:
    """A tokenizer without tokens, for what asks a model for one: TF-IDF has words of its own."""
    model = tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")
    return Tokenizer(tokenizers.Tokenizer(model))
