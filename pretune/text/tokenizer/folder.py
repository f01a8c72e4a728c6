"""Where the files of a model and its tokenizer lie in a folder that `sentence-transformers` saved."""

from __future__ import annotations

from pathlib import Path

from pretune.errors import DataError, MissingInputError
from pretune.field_table import parse_json, read_file

MODULES = "modules.json"
OTHER_READERS = ("BoW", "CLIPModel", "StaticEmbedding", "WordEmbeddings", "Router", "Asym")
"""First modules that read texts without a transformer, or with several."""


def transformer_folder(folder: Path) -> Path:
    """Returns the folder of a model's own files: the folder itself, or where its modules.json says that they are.

    Older versions of `sentence-transformers` keep them in `0_Transformer`. What is wrong with the file is said where it
    is read for its modules.

    Raises:
        DataError: texts are read without a transformer, or with several.
    """
    try:
        listed = parse_json(read_file(folder / MODULES), MODULES)
        path, name = folder / listed[0]["path"], listed[0]["type"].rpartition(".")[2]
        inside = path.resolve().is_relative_to(folder.resolve()) and name == "Transformer"
    except (OSError, ValueError, TypeError, AttributeError, LookupError, DataError, MissingInputError):
        return folder
    if name in OTHER_READERS:
        raise DataError(
            f"{folder / MODULES}: the first module, {name!r}, reads texts without a transformer, or with several; read "
            "this folder with sentence-transformers itself"
        )
    return path if inside and path.is_dir() else folder
