"""What folders of adapters have in common: how one is recognised, read and written, and its base found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from pretune.disk import storage_errors
from pretune.errors import DataError, MissingInputError
from pretune.interop.safety import read_bin, read_header, read_json
from pretune.interop.weights import write_json, write_safetensors
from pretune.models.model import LanguageModel
from pretune.new_folder import NewFolder
from pretune.seals import write_seal
from pretune.text.tokenizer.tokenizer import Tokenizer

CONFIG = "adapter_config.json"


def is_adapter(path: Path | str) -> bool:
    """Whether a folder holds an adapter of another library and no whole model."""
    return (Path(path) / CONFIG).is_file() and not (Path(path) / "config.json").exists()


@dataclass(frozen=True)
class ExportedAdapter:
    """What was written and compared.

    Attributes:
        kind: the type of the adapter, as its library calls it.
        adapters: tensors of it.
        heads: modules that are saved whole.
        base: folder or name of the base, as the files say it.
        use: a line of Python that opens it.
        labels: how many classes its head has; None for a head without classes.
        difference: largest distance of two outputs, of the model and of what was read again, as a fraction of the
            largest value.
        notes: what to know of it.
    """

    kind: str
    adapters: int
    heads: tuple[str, ...]
    base: str | None
    use: str
    labels: int | None = None
    difference: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdapterFiles:
    """The files of an adapter.

    Attributes:
        configs: of JSON, by name; `adapter_config.json` among them.
        tensors: by file and name.
    """

    configs: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Tensor]]

    def write(
        self, path: Path, tokenizer: Tokenizer | None = None, check: Callable[[Path], None] | None = None
    ) -> None:
        """Writes a folder, which is complete or not there.

        Args:
            tokenizer: written beside it.
            check: looks at the folder before it takes its place.

        Raises:
            StorageError: the disk is full or fails.
            CannotCreateError: no permission, or a file in the way.
        """
        with storage_errors(path, "save the adapter"), NewFolder(path, "merge") as folder:
            for name, tensors in self.tensors.items():
                write_safetensors(folder.path / name, {key: tensor.contiguous() for key, tensor in tensors.items()})
            for name, fields in self.configs.items():
                write_json(folder.path / name, dict(fields))
            if tokenizer is not None:
                tokenizer.write(folder.path)
            if check is not None:
                check(folder.path)
            write_seal(folder.path, path)
            folder.publish(last=CONFIG)


def read_fields(path: Path, library: str) -> dict[str, Any]:
    """The fields of an adapter's configuration.

    Args:
        path: of the folder.
        library: whose format it is in, for the message.

    Raises:
        MissingInputError: no adapter there.
        DataError: damaged.
    """
    if not (path / CONFIG).is_file():
        raise MissingInputError(f"{path}: no adapter of {library} here (no {CONFIG})")
    return read_json(path / CONFIG)


def read_tensors(path: Path, safe: str, pickled: str) -> dict[str, Tensor]:
    """The tensors of a folder in fp32, whichever of two kinds of files they are in; a pickle holds no code.

    Args:
        safe, pickled: names of the files, one of which is to be there.

    Raises:
        MissingInputError: neither file.
        DataError: damaged or hostile.
    """
    if (path / safe).is_file():
        read_header(path / safe)
        tensors = load_file(path / safe)
    elif (path / pickled).is_file():
        tensors = read_bin(path / pickled)
    else:
        raise MissingInputError(f"{path}: no tensors of the adapter ({safe} or {pickled}); bring the whole folder")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise DataError(f"{path}: tensor {name[:200]!r} holds something else than finite numbers; damaged")
    return {name: tensor.float() for name, tensor in tensors.items()}


def named_base(path: Path, field: str, base: Path | str | None = None) -> Path:
    """The folder of an adapter's base.

    Args:
        path: of the adapter.
        field: of its configuration that names the base.
        base: the folder, where the caller knows it.

    Raises:
        MissingInputError: it is not there.
    """
    if base is not None:
        return Path(base)
    recorded = read_json(path / CONFIG).get(field)
    if not isinstance(recorded, str) or not recorded:
        raise MissingInputError(f"{path / CONFIG}: names no base ({field}); give its folder as `base`")
    for folder in (Path(recorded), path / recorded):
        if (folder / "config.json").is_file():
            return folder
    raise MissingInputError(
        f"{path / CONFIG}: its base {recorded[:200]!r} is no folder here, and pretune fetches none; give the folder of "
        "this model as `base`"
    )


def learned_of(model: LanguageModel, plain: LanguageModel) -> dict[int, Tensor]:
    """The parameters of the model without its adapter that learned, by their `id`: those of heads."""
    own = {id(parameter) for parameter in plain.parameters()}
    return {id(p): p for p in model.parameters() if p.requires_grad and id(p) in own}


def freeze_base(model: LanguageModel, learned: list[nn.Parameter], before: set[int]) -> None:
    """Lets what an adapter added and what learned beside it learn, and nothing else.

    Args:
        learned: parameters of the base that had other values in the adapter's files.
        before: the parameters of the base, by their `id`.
    """
    chosen = {id(parameter) for parameter in learned}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen or id(parameter) not in before)
