"""Ranks agree before the first step, or none begins: on recipe, code and versions, then on what each of them has read.

Each rank may be a machine with folders of its own. Rank 0's recipe is the run's, and DDP gives every rank its weights;
what the others would read or compute otherwise nobody would notice.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pretune
from pretune.config import flatten
from pretune.config.field_names import matches
from pretune.errors import DataError, PretuneError, UsageError
from pretune.find import source_digests
from pretune.interop.fingerprint import fingerprint
from pretune.nn.rounded import rounded_tensors
from pretune.runtime.distributed import Distributed
from pretune.train.components import TrainComponents
from pretune.train.recipe import Recipe, own_names, plain

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow")
_OF_A_MACHINE = (  # rank 0's hold for all; what lies at the places is compared
    "output",
    "device",
    "threads",
    "precision",
    "resume",
    "data.stores",
    "data.tokenizer",
    "data.train",
    "data.validation",
    "task.*.data.train",
    "task.*.data.validation",
    "model.init",
    "track",
)


def check_recipes(distributed: Distributed, recipe: Recipe) -> None:
    """Compare recipes, versions and the code of pretune.

    Raises:
        UsageError: a rank has others than rank 0.
    """
    if distributed.size == 1:
        return
    fields = {name: value for name, value in plain(recipe).items() if not matches(name, _OF_A_MACHINE)}
    versions = {f"version of {name}": metadata.version(name) for name in _PACKAGES}
    versions |= {"version of Python": platform.python_version(), "code of pretune": _code()}
    remedy = "start every rank with the same recipe, flags and environment"
    _compare(distributed, {**flatten(fields), **versions}, UsageError, remedy)


def check_inputs(distributed: Distributed, recipe: Recipe, components: TrainComponents) -> None:
    """Compare what ranks have read: stores, labelled rows, tokenizer, weights, and files of the user's own.

    Raises:
        UsageError: a rank has read other code than rank 0.
        DataError: a rank has read other data.
    """
    if distributed.size == 1:
        return
    remedy = "every rank must read the same files: copy those of rank 0, or let all ranks read one disk"
    _compare(distributed, source_digests(own_names(recipe)), UsageError, remedy)
    read = {**components.data, "tokenizer": components.tokenizer.hash}
    read["model (initial weights)"] = fingerprint(
        [*components.model.named_parameters(), *rounded_tensors(components.model).items()]
    )
    _compare(distributed, read, DataError, remedy)


def _compare(distributed: Distributed, own: Mapping[str, object], error: type[PretuneError], remedy: str) -> None:
    """Raises an error on every rank that names the first rank that differs, and its fields."""
    values = distributed.all_gather_object({name: str(value) for name, value in own.items()})
    for rank, theirs in enumerate(values):
        fields = [name for name in sorted({*values[0], *theirs}) if values[0].get(name) != theirs.get(name)]
        if fields:
            differences = "; ".join(
                f"{name} is {_short(theirs, name)}, not {_short(values[0], name)}" for name in fields[:5]
            )
            more = f"; and {len(fields) - 5} more" if len(fields) > 5 else ""
            raise error(f"rank {rank} differs from rank 0: {differences}{more}; {remedy}")


def _short(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "missing")
    return text if len(text) <= 40 else f"{text[:12]}..."


def _code() -> str:
    """SHA-256 of the files of pretune."""
    digest = hashlib.sha256()
    root = Path(pretune.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
