"""Says which module of a `transformers` class is which brick of ours, and which rows of it.

PEFT names what it adds after the module that it changes, such as `transformer.h.0.attn.c_attn`. The family's weight map
says which of our bricks that is; a fused module is several, each with some of its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from pretune.errors import DataError
from pretune.find import suggest
from pretune.interop.peft.contents import Contents
from pretune.interop.weight_names import ClassNames, body_prefixes, file_names, plain_name
from pretune.models.model import LanguageModel
from pretune.models.weight_map import Interleave, Slice, Transpose, Weight, join
from pretune.tune.surgery import projection_sites

_ROWS = (Slice, Interleave)  # what moves whole rows, so that it does the same to what has a row each


@dataclass(frozen=True)
class Part:
    """One brick of ours in a module of theirs.

    Attributes:
        path: of the brick, in the model.
        weight: how its matrix is read from the module's.
    """

    path: str
    weight: Weight

    @property
    def rows(self) -> Weight:
        """How what has as many rows as the module's output is read; orientation of the matrix is no matter there."""
        transforms = tuple(each for each in self.weight.transforms if not isinstance(each, Transpose))
        return Weight(self.weight.ours, self.weight.theirs, transforms)


@dataclass(frozen=True)
class FileModule:
    """A module of the `transformers` class, with the bricks that it holds.

    Attributes:
        name: in the class, with the prefix of the body.
        parts: in the order of its rows.
        is_transposed: its matrix is (in, out), as that of `Conv1D`.
    """

    name: str
    parts: tuple[Part, ...]
    is_transposed: bool

    def split(self, rows: Tensor, model: LanguageModel) -> list[Tensor]:
        """What has a row for each output, by part. Shape: (out, ...) -> (out of the part, ...) each."""
        return [part.rows.read(rows, model.config) for part in self.parts]

    def join(self, rows: Sequence[Tensor], model: LanguageModel) -> Tensor:
        """Undoes `split`. Shape: (out of the part, ...) each -> (out, ...)."""
        weights = [part.rows for part in self.parts]
        return join(self.name, list(zip(weights, rows, strict=True)), model.config)


class ModuleTable:
    """Finds the modules of a `transformers` class by their names, and by the paths of our bricks.

    Args:
        model: before surgery.

    Attributes:
        modules: those of projections, by their plain names.
        vocabularies: paths of embeddings and heads that hold a vocabulary, by the plain names of their modules.
        unused: plain names of modules that hold a vocabulary and that `transformers` never calls.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._prefixes = body_prefixes(model.family)
        self._in_class = ClassNames(model)
        self.modules: dict[str, FileModule] = {}
        self.vocabularies: dict[str, str] = {}
        self.unused: set[str] = set()
        projections = {site.path for site in projection_sites(model)}
        words = {"embedding.word.weight", *(f"heads.{role}.weight" for role in model.heads)}
        parts: dict[str, list[Part]] = {}
        self._names: dict[str, str] = {}
        for ours, theirs, weight in file_names(model):
            path, name = ours.removesuffix(".weight"), theirs.removesuffix(".weight")
            if path in (ours, name) or name == theirs:
                continue
            plain = self.plain(name)
            self._names[plain] = self._in_class.name(ours, theirs).removesuffix(".weight")
            if path in projections and all(isinstance(each, (*_ROWS, Transpose)) for each in weight.transforms):
                parts.setdefault(plain, []).append(Part(path, weight))
            elif ours in words:
                self._add_vocabulary(model, plain, path)
        self.modules = {name: self._module(name, listed) for name, listed in parts.items()}
        self._of_path = {part.path: module for module in self.modules.values() for part in module.parts}

    def plain(self, name: str) -> str:
        """A name without the prefix of the body."""
        return plain_name(f"{name}.weight", self._prefixes).removesuffix(".weight")

    def at(self, path: str) -> FileModule | None:
        """The module that holds the brick at a path; None where no module does, as in XLNet's attention."""
        return self._of_path.get(path)

    def find(self, name: str, contents: Contents) -> FileModule:
        """The module of a name in the files.

        Raises:
            DataError: the base has none of this name, or it is not a projection.
        """
        module = self.modules.get(self.plain(name))
        if module is not None:
            return module
        if self.plain(name) in self.unused:
            raise DataError(
                f"{contents.where}: an adapter of {name!r}, which transformers never calls in this family, so that it "
                "had no effect there either; leave it out"
            )
        raise DataError(
            f"{contents.where}: an adapter of {name!r}, which is no projection of this base; "
            f"{suggest(name, sorted(self.names()))}"
        )

    def holding(self, paths: Collection[str]) -> list[FileModule]:
        """The modules that hold the bricks at some paths, each once.

        Raises:
            DataError: a path that is in no module.
        """
        for path in paths:
            if path not in self._of_path:
                raise DataError(
                    f"{path}: the transformers class has no module of this matrix alone, so that PEFT's files have no "
                    "name for an adapter of it; merge the adapter, and export the model"
                )
        return [module for module in self.modules.values() if any(part.path in paths for part in module.parts)]

    def vocabulary(self, name: str) -> str | None:
        """The path of the vocabulary that a module of the files holds; None where it holds none."""
        return self.vocabularies.get(self.plain(name))

    def vocabulary_names(self, path: str) -> list[str]:
        """The modules, by their full names, whose vocabulary is the one at a path."""
        return [self._names[name] for name, own_path in self.vocabularies.items() if own_path == path]

    def names(self) -> list[str]:
        """The full names of all modules that can be changed."""
        return [*(module.name for module in self.modules.values()), *(self._names[name] for name in self.vocabularies)]

    def _add_vocabulary(self, model: LanguageModel, name: str, path: str) -> None:
        """An encoder-decoder has a module for each side, and one that both share, which nothing calls."""
        if not model.has_encoder or path != "embedding.word":
            self.vocabularies[name] = path
        elif name.startswith(("encoder.", "decoder.")):
            self.vocabularies[name] = "encoder.embedding.word" if name.startswith("encoder.") else path
        else:
            self.unused.add(name)

    def _module(self, name: str, parts: Sequence[Part]) -> FileModule:
        ordered = sorted(parts, key=lambda part: [transform.part for transform in part.weight.transforms])
        transposed = any(isinstance(each, Transpose) for each in ordered[0].weight.transforms)
        return FileModule(self._names[name], tuple(ordered), transposed)
