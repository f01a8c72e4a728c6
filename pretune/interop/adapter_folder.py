"""Reads, merges and writes the folders of adapters, in whichever library's format: peft's, or that of `adapters`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType

from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.find import suggest
from pretune.interop.adapter_files import CONFIG, ExportedAdapter
from pretune.interop.adapters import folder as adapters
from pretune.interop.export import compare, outputs
from pretune.interop.peft import folder as peft
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.safety import read_json
from pretune.models.model import LanguageModel
from pretune.new_folder import contents as folder_contents
from pretune.new_folder import settle
from pretune.nn.bottleneck import Bottleneck
from pretune.nn.low_rank import LowRankVocabulary
from pretune.nn.tuned import TunedProjection
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.tune.surgery import merge_bricks

FORMATS: Mapping[str, ModuleType] = {"peft": peft, "adapters": adapters}
_TOLERANCE = 1e-5  # of the largest output


def _format_of(path: Path) -> ModuleType:
    """The format of a folder's files.

    Raises:
        DataError: damaged.
    """
    fields = read_json(path / CONFIG)
    return adapters if "peft_type" not in fields and "config" in fields else peft


def read_adapter(
    path: Path, base: Path | str | None = None, *, makers: HeadMakers = MappingProxyType({})
) -> LanguageModel:
    """Reads a base and puts the adapter of a folder on it.

    Args:
        base: folder of the model that was tuned, where the files do not name a folder that is there.
        makers: what makes heads of the base that are not standard.

    Raises:
        MissingInputError: no adapter, or its base is not there.
        DataError: damaged or hostile files, a type or a field that pretune does not do, or another base.
    """
    model: LanguageModel = _format_of(path).read(path, base, makers=makers)
    return model


def find_base(path: Path, base: Path | str | None = None) -> Path:
    """The folder of an adapter's base; arguments and errors as of `named_base`."""
    base_folder: Path = _format_of(path).find_base(path, base)
    return base_folder


def merge_adapter(model: LanguageModel, folder: Path) -> LanguageModel:
    """Makes a model that `read_adapter` gave a plain one that computes the same; it is changed in place.

    Raises:
        UsageError: what no plain model has: a prefix, a prompt, or an activation between two matrices.
    """
    modules = [*model.modules()]
    what = "an adapter with an activation inside"
    if not any(isinstance(module, Bottleneck) for module in modules):
        if any(isinstance(module, TunedProjection | LowRankVocabulary) for module in modules):
            merge_bricks(model)
            return model
        what = "vectors in front of a text"
    raise UsageError(
        f"{folder}: {what} cannot be merged into a plain model; use the folder as it is: every verb reads it with its "
        "base"
    )


def export_adapter(
    name: str, model: LanguageModel, directory: Path, base: Path, tokenizer: Tokenizer | None = None
) -> ExportedAdapter:
    """Writes an adapter in a library's format, reads it again on its base, and compares the outputs.

    Args:
        name: of the format.

    Raises:
        UsageError: no such format.
        CannotCreateError: the directory holds something.
        DataError: something that the files have no place for; or what was read again computes something else.
    """
    if name not in FORMATS:
        raise UsageError(f"format {name!r}: no format of adapters; {suggest(name, [*FORMATS])}")
    settle(directory)
    if directory.is_dir() and folder_contents(directory):
        raise CannotCreateError(f"{directory}: holds something already; give a new or empty folder")
    if not (base / "config.json").is_file():
        raise DataError(
            f"{base}: the base is no folder in the layout of transformers, which {name} needs; merge what was learned "
            "there first (pretune merge)"
        )
    expected, differences = outputs(model), [0.0]

    def check(folder: Path) -> None:
        differences[0] = compare(expected, outputs(read_adapter(folder, base).eval()))
        if differences[0] > _TOLERANCE:
            raise DataError(
                f"{directory}: the adapter would compute something else on {base}: outputs differ by "
                f"{differences[0]:.1e} of their size; nothing was written"
            )

    exported: ExportedAdapter = FORMATS[name].write(model, directory, str(base.resolve()), tokenizer, check)
    return replace(exported, difference=differences[0])
