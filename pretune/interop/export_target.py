"""Exports a model for another engine: a target's file writes it, it is read back and compared, then put in its place.

A target is a file of `interop/targets/`, or a user's own by its path. Nothing appears at the output before everything
in it was found to be the same.
"""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from pretune.disk import storage_errors, sync
from pretune.errors import DataError, MissingPackageError, UsageError
from pretune.find import find_defining, suggest, variants
from pretune.interop.foreign_reader import Uses
from pretune.interop.plain_parts import stored_format
from pretune.models.model import LanguageModel
from pretune.new_folder import NewFolder
from pretune.nn.projection import named_projections
from pretune.text.tokenizer.tokenizer import Tokenizer

AXIS = "interop.targets"


@dataclass(frozen=True)
class TargetExport:
    """Holds what is exported.

    Attributes:
        model: on the CPU, in evaluation mode.
        tokenizer: of the model.
        type: of the weights in the files, one of the target's.
        uses: what pretune does with the model, for comparing texts; None where none are compared.
        notes: what the target does not hold, as sentences for the screen.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    type: str
    uses: Uses | None = None
    notes: list[str] = field(default_factory=list)


class Target(Protocol):
    """What a file of `interop/targets/`, or a user's own, offers.

    Attributes:
        TYPES: of weights that it knows, the usual one first.
        SUFFIX: of the one file that it is; empty where it is a folder.
        PACKAGES: that writing or reading back needs, as they are imported, and the extra that installs them.
    """

    TYPES: Sequence[str]
    SUFFIX: str
    PACKAGES: tuple[Sequence[str], str]

    def refuse(self, export: TargetExport) -> str | None:
        """Says what the target lacks, and the remedy; None where it can have the model."""

    def write(self, export: TargetExport, path: Path) -> None:
        """Writes the file, or the files into an empty folder."""

    def compare(self, export: TargetExport, path: Path) -> list[str]:
        """Reads what was written and says what is the same.

        Raises:
            DataError: something differs.
        """

    def use(self, export: TargetExport, path: Path) -> str:
        """Gives a command that uses the result."""


@dataclass(frozen=True)
class ExportedTarget:
    """Holds what was compared.

    Attributes:
        type: of the weights.
        compared: what was found to be the same.
        notes: what the target does not hold.
        use: a command that uses the result.
        size: of the files in bytes.
    """

    type: str
    compared: list[str]
    notes: list[str]
    use: str
    size: int


def target_names() -> list[str]:
    """Lists the targets as the command line calls them."""
    return [name.replace("_", "-") for name in variants(AXIS)]


def find_target(name: str) -> Target:
    """Finds a target by its name, or by the path of a user's own file.

    Raises:
        UsageError: no such target, or a file without a part that a target needs.
        MissingInputError: a path to a file that does not exist.
    """
    is_name = "/" not in name and "." not in name
    if is_name and name.replace("-", "_") not in variants(AXIS):
        raise UsageError(f"--format {name}: no such format; {suggest(name, target_names(), 0.6)}")
    needed = ("TYPES", "SUFFIX", "PACKAGES", "refuse", "write", "compare", "use")
    module_name = name.replace("-", "_") if is_name else name
    return cast(Target, find_defining(AXIS, module_name, needed, f"--format {name}: the file"))


def export_to(
    name: str,
    model: LanguageModel,
    tokenizer: Tokenizer,
    output: Path,
    type: str | None = None,
    uses: Uses | None = None,
) -> ExportedTarget:
    """Writes a model for a target, reads it back and compares.

    Args:
        name: of the target, or a user's own file.
        model: on the CPU, in evaluation mode; rounded weights are kept as they are where the target has their format.
        output: a new file or an empty folder.
        type: of the weights; by default as they are stored, where the target has that, else the target's usual one.

    Raises:
        UsageError: no such target or type, or an output that it cannot be.
        MissingPackageError: a package that it needs is not installed.
        DataError: the target lacks what the model has, or what was read back differs.
        CannotCreateError, StorageError: it cannot be written.
    """
    target = find_target(name)
    chosen = _choose_type(name, target, model, type)
    _check_output(name, target, output)
    packages, extra = target.PACKAGES
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"--format {name} needs the package {package}: pip install 'pretune[{extra}]'")
    export = TargetExport(model, tokenizer, chosen, uses)
    if (reason := target.refuse(export)) is not None:
        raise DataError(f"{output}: {name} cannot have this {model.family}: {reason}; nothing was written")
    if target.SUFFIX:
        compared, size = _write_file(target, export, output)
    else:
        compared, size = _write_folder(target, export, output)
    return ExportedTarget(chosen, compared, export.notes, target.use(export, output), size)


def _choose_type(name: str, target: Target, model: LanguageModel, type: str | None) -> str:
    """The type of the weights: what is asked for, or as they are stored."""
    stored = {stored_format(brick) for _, brick in named_projections(model.stack)} - {None}
    if type is None:
        return next((form for form in target.TYPES if form in stored), target.TYPES[0])
    if type not in target.TYPES:
        raise UsageError(f"--type {type}: {name} has {', '.join(target.TYPES)}; {suggest(type, list(target.TYPES))}")
    if stored and type not in stored and type in ("int8", "q8_0", "q4_0"):
        raise UsageError(
            f"--type {type}: the model's weights are rounded to {', '.join(sorted(map(str, stored)))} already, and "
            "rounding them again would add to the error; leave --type out, or export the model before it was rounded"
        )
    return type


def _check_output(name: str, target: Target, output: Path) -> None:
    if target.SUFFIX and output.suffix != target.SUFFIX:
        raise UsageError(f"{output}: {name} is one file; give it the ending {target.SUFFIX}")
    if not target.SUFFIX and output.suffix in (".gguf", ".onnx"):
        raise UsageError(f"{output}: {name} is a folder; give it a name without {output.suffix}")


def _write_file(target: Target, export: TargetExport, output: Path) -> tuple[list[str], int]:
    """Writes a target that is one file: in a folder beside it, then in one move."""
    draft = output.with_name(f".{output.name}.draft")
    with storage_errors(output, "write the file"):
        if os.path.lexists(output):
            raise FileExistsError(errno.EEXIST, "it is there already")
        with NewFolder(draft) as folder:
            path = folder.path / output.name
            target.write(export, path)
            compared = target.compare(export, path)
            sync(path)
            path.rename(output)
            sync(output.parent)
    return compared, output.stat().st_size


def _write_folder(target: Target, export: TargetExport, output: Path) -> tuple[list[str], int]:
    with storage_errors(output, "write the files"), NewFolder(output) as folder:
        target.write(export, folder.path)
        compared = target.compare(export, folder.path)
        size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
        folder.publish()
    return compared, size
