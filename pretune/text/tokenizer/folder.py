"""Where the files of a model and its tokenizer lie in a folder that `sentence-transformers` saved."""

from __future__ import annotations

import json
from pathlib import Path

from pretune.errors import DataError

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
        listed = json.loads((folder / MODULES).read_bytes())
        path, name = folder / listed[0]["path"], listed[0]["type"].rpartition(".")[2]
        inside = path.resolve().is_relative_to(folder.resolve()) and name == "Transformer"
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return folder
    if name in OTHER_READERS:
        raise DataError(
            f"{folder / MODULES}: the first module, {name!r}, reads texts without a transformer, or with several; read "
            "this folder with sentence-transformers itself"
        )
    return path if inside and path.is_dir() else folder
