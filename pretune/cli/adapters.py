"""Flags of verbs that use a base with several adapters: where these are, and which of them reads a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pretune.cli.loading import load_model
from pretune.errors import DataError, UsageError

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.cli.inputs import RowFlags
    from pretune.cli.session import Session


@dataclass(frozen=True)
class AdapterFlags:
    """Which adapters stand on the model, and which of them reads a row.

    Attributes:
        adapters: what was tuned on this model: NAME=FOLDER,NAME=FOLDER.
        adapter: name of the adapter that reads all rows.
        adapter_column: column of a file that names the adapter of each row.
    """

    adapters: tuple[str, ...] = ()
    adapter: str | None = None
    adapter_column: str | None = None

    def folders(self) -> dict[str, Path]:
        """The folder of each adapter, by its name.

        Raises:
            UsageError: no name or no folder, a name twice, or flags that need others.
        """
        folders: dict[str, Path] = {}
        for text in [part.strip() for several in self.adapters for part in several.split(",")]:
            name, _, folder = text.partition("=")
            if not name or not folder:
                raise UsageError(f"--adapters {text}: expected NAME=FOLDER, such as topic=runs/topic")
            if name in folders:
                raise UsageError(f"--adapters {text}: the name {name!r} is given twice; give each adapter its own")
            folders[name] = Path(folder)
        chosen = {"--adapter": self.adapter, "--adapter-column": self.adapter_column}
        named = [f"{flag} {value}" for flag, value in chosen.items() if value is not None]
        if len(named) > 1:
            raise UsageError(f"{named[0]} is for all rows, {named[1]} for each; leave one of them out")
        if named and not folders:
            raise UsageError(f"{named[0]}: there are no adapters; say where they are with --adapters NAME=FOLDER")
        if folders and not named:
            raise UsageError("--adapters: say which one reads a row, with --adapter NAME or --adapter-column COLUMN")
        return folders

    def load(self, model: Path, session: Session, rows: RowFlags, step: str | None, base: Path | None) -> Model:
        """Loads a model: with the adapter that reads all rows, or with all of them where a column says which.

        Args:
            step, base: as of `load_model`.

        Raises:
            UsageError: a column where no file is read; or as `folders` and `load_model`.
        """
        folders = self.folders()
        if self.adapter_column is not None and not rows.input:
            raise UsageError(f"--adapter-column {self.adapter_column}: a column is one of a file; name the file too")
        loaded = load_model(model, session, step=step, base=base, adapters=folders)
        if self.adapter is None:
            return loaded
        from pretune.adapted_model import AdaptedModel

        assert isinstance(loaded, AdaptedModel)
        return loaded.using(self.adapter)

    def names(self, rows: Iterable[tuple[Mapping[str, object], object]]) -> list[str | None]:
        """The adapter of each row.

        Args:
            rows: their columns, and where each was read.

        Raises:
            DataError: a row without the column.
        """
        column = str(self.adapter_column)
        names: list[str | None] = []
        for fields, origin in rows:
            if column not in fields:
                raise DataError(f"{origin}: no column {column!r}, which --adapter-column names")
            value = fields[column]
            names.append(None if value is None or not str(value).strip() else str(value).strip())
        return names


Adapters = Annotated[AdapterFlags, Parameter(name="*")]
NO_ADAPTERS = AdapterFlags()
