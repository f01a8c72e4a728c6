"""Reads and writes the files of `sentence-transformers`, which say how a text becomes one vector.

Its modules are the model, then a pooling of the last layer's rows, under the names that all its versions since 2 read.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from pretune.interop.safety import read_json
from pretune.interop.weights import write_json
from pretune.models.model import Pooling

_MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "sqrt": "pooling_mode_mean_sqrt_len_tokens",
    "weighted": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}
_POOLING = "1_Pooling"


def write_modules(folder: Path, width: int, length: int, pooling: Pooling) -> None:
    """Writes the list of modules and their settings into the folder of a model.

    Args:
        width: of a vector.
        length: tokens that a text may have, special ones included.
    """
    modules = [("", "Transformer"), (_POOLING, "Pooling")]
    write_json(
        folder / "modules.json",
        [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
            for n, (path, name) in enumerate(modules)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    (folder / _POOLING).mkdir()
    modes = {mode: name == pooling for name, mode in _MODES.items()}
    write_json(folder / _POOLING / "config.json", {"word_embedding_dimension": width, **modes})
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def read_pooling(folder: Path) -> Pooling | None:
    """Reads the pooling from the files of a folder; None where they say nothing, or name one that is not supported.

    Raises:
        DataError: a damaged file.
    """
    path = folder / _POOLING / "config.json"
    if not path.is_file():
        return None
    tree = read_json(path)
    names = {"lasttoken": "last"}
    stated = [names.get(str(tree.get("pooling_mode")), str(tree.get("pooling_mode")))]
    modes = [name for name, mode in _MODES.items() if tree.get(mode) is True] or stated
    return cast(Pooling, modes[0]) if len(modes) == 1 and modes[0] in get_args(Pooling) else None
