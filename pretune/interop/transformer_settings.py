"""Reads sentence_bert_config.json: how `sentence-transformers` gives texts to the transformer of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretune.errors import DataError
from pretune.field_table import FieldTable, check_fields, shown_value
from pretune.interop.safety import read_json
from pretune.interop.vector_fields import TRANSFORMER_FIELDS
from pretune.models.text_vectors import Fields

SETTINGS = "sentence_bert_config.json"
_OLDER = ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


@dataclass(frozen=True)
class TransformerSettings:
    """Holds how texts are given to the transformer.

    Attributes:
        max_length: tokens of a text; None where tokenizer and positions decide.
        lowercase: texts are lower-cased before they are tokenized.
        fields: all that the file says.
    """

    max_length: int | None
    lowercase: bool
    fields: Fields


def read_transformer(folder: Path, notes: list[str], table: FieldTable = TRANSFORMER_FIELDS) -> TransformerSettings:
    """Reads the settings of a transformer; the usual ones where no file says any.

    Args:
        folder: of the model's own files.
        notes: gets a sentence for each field that is not known.
        table: what becomes of each field.

    Raises:
        DataError: a damaged file, or a field that would change the rows and is not done here.
    """
    names = (SETTINGS, *(f"sentence_{name}_config.json" for name in _OLDER))
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return TransformerSettings(None, False, {})
    fields = read_json(path)
    notes += check_fields(path, fields, table)
    limits = list(_limits(path, fields))
    return TransformerSettings(limits[0] if limits else None, fields.get("do_lower_case") is True, fields)


def _limits(path: Path, fields: Fields) -> Iterator[int]:
    """The limits of a text: that of the calls, of the tokenizer's arguments, of the transformer; the first counts."""
    stated = {
        "processing_kwargs.text.max_length": (fields.get("processing_kwargs") or {}).get("text", {}).get("max_length"),
        "processor_kwargs.model_max_length": (fields.get("processor_kwargs") or {}).get("model_max_length"),
        "tokenizer_args.model_max_length": (fields.get("tokenizer_args") or {}).get("model_max_length"),
        "max_seq_length": fields.get("max_seq_length"),
    }
    for field, value in stated.items():
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{path}: field {field!r} = {shown_value(value)}: expected a whole number above 0")
        yield value
