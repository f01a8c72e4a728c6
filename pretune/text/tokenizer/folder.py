"""Where the files of a model and its tokenizer lie in a folder that `sentence-transformers` saved."""

from __future__ import annotations

import json
from pathlib import Path

MODULES = "modules.json"


def transformer_folder(folder: Path) -> Path:
    """Returns the folder of a model's own files: the folder itself, or where its modules.json says that they are.

    Older versions of `sentence-transformers` keep them in `0_Transformer`. What is wrong with the file is said where it
    is read for its modules.
    """
    try:
        listed = json.loads((folder / MODULES).read_bytes())
        path = folder / listed[0]["path"]
        inside = path.resolve().is_relative_to(folder.resolve()) and listed[0]["type"].endswith(".Transformer")
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return folder
    return path if inside and path.is_dir() else folder
