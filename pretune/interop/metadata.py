"""Reads and checks the field `pretune` of `config.json`, which holds what no other format has a field for.

What is read here comes from anybody. Sizes and types are checked, a user's file is used only from where it stood and
unchanged, and code inside the model's own folder is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretune import config as configuration
from pretune.disk import sha256
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import suggest, variants
from pretune.interop.safety import read_json
from pretune.interop.sealed_model import check_config
from pretune.models.metadata import ROLE, VERSION, HeadSource, Metadata, TaskRecord, VariantRecord, source_file
from pretune.text.tokenizer.folder import transformer_folder

__all__ = ["VERSION", "HeadSource", "Metadata", "TaskRecord", "VariantRecord", "parse", "read_metadata", "resolve"]

FIELD = "pretune"
SIZE_LIMIT = 4 << 20  # bytes of the field as JSON
CODE_LIMIT = 4 << 20  # bytes of a user's file
_NAME = re.compile(r"[a-z][a-z0-9_]*(:[A-Za-z_]\w*)?")
_USER = re.compile(r"(/.*\.py|(?!.*\.py(:|$))[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)(:[A-Za-z_]\w*)?")


def read_metadata(folder: Path) -> Metadata:
    """Reads the field `pretune` of a model folder's `config.json`; empty metadata where it has none.

    Raises:
        MissingInputError: no `config.json`.
        DataError: a damaged or hostile field, or one that a newer version of pretune wrote.
    """
    check_config(folder)
    path = transformer_folder(folder) / "config.json"
    return parse(path, read_json(path))


def parse(path: Path, fields: Mapping[str, Any]) -> Metadata:
    """Checks the field `pretune` of a configuration.

    Args:
        path: of the file that `fields` come from, for messages.

    Raises:
        DataError: a damaged or hostile field, or one that a newer version of pretune wrote.
    """
    tree = fields.get(FIELD)
    if tree is None:
        return Metadata()
    where = f"{path}: field {FIELD!r}"
    if not isinstance(tree, dict):
        raise DataError(f"{where}: expected an object, got {type(tree).__name__}; leave the field out")
    version = tree.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DataError(f"{where}: 'version' = {str(version)[:40]!r} is not a version; leave the field out")
    if version > VERSION:
        raise DataError(
            f"{where}: this model was saved by a newer pretune (version {version} of the field, this one reads "
            f"{VERSION}); update pretune, or leave the field out to read what transformers would read"
        )
    try:
        size = len(json.dumps(tree))
        if size > SIZE_LIMIT:
            raise DataError(f"{where}: {size:,} bytes, more than the {SIZE_LIMIT:,} allowed")
        metadata = configuration.validate(Metadata, tree, FIELD)
    except UsageError as error:
        raise DataError(f"{path}: {error}; the file is damaged or hostile") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deep; the file is damaged or hostile") from None
    role = next((role for role in metadata.heads if not re.fullmatch(ROLE, role)), None)
    if role is not None:
        raise DataError(f"{where}: head {role[:80]!r} is not a name; the file is damaged or hostile")
    return metadata


def resolve(record: VariantRecord, axis: str, folder: Path, field: str, file: str = "") -> str:
    """Returns the name by which `find` finds a recorded variant, after checking that it is the one that was recorded.

    Args:
        axis: such as `models`, `tasks`.
        folder: of the model; no code in it is run.
        field: of `pretune` in the folder's `config.json`, for messages.
        file: where the field is in another file of the folder, its name.

    Raises:
        MissingInputError: a user's file that is gone.
        DataError: a user's file that has changed, or that stands in the model's folder; an unknown name.
    """
    field = field if file else f"{FIELD}.{field}"
    where = f"{folder / (file or 'config.json')}: field '{field}.name' = {record.name[:200]!r}"
    if record.sha256 is None:
        known = variants(axis)
        if not _NAME.fullmatch(record.name) or record.name.partition(":")[0] not in known:
            raise DataError(f"{where}: no such variant of {axis}; {suggest(record.name[:200], known)}")
        return record.name
    if not _USER.fullmatch(record.name):
        raise DataError(f"{where} is neither the absolute path of a Python file nor a module; it was not opened")
    try:
        path = source_file(record.name)
    except MissingInputError as error:
        raise MissingInputError(
            f"{where}: this model was made with a file of yours that is gone ({error}); put it back, or write its new "
            "place into that field"
        ) from None
    assert path is not None  # `_USER` matches nothing else
    _check_code(path, record.sha256, folder, where, f"{field}.sha256")
    return record.name


def _check_code(path: Path, expected: str, folder: Path, where: str, field: str) -> None:
    if path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{where} is code inside the model's own folder, which is never run; if you trust it, move it elsewhere "
            "and write its new place into that field"
        )
    size = path.stat().st_size
    if size > CODE_LIMIT:
        raise DataError(f"{where}: {size:,} bytes, more than the {CODE_LIMIT:,} that a variant may have")
    now = sha256(path)
    if now != expected:
        raise DataError(
            f"{where}: the file has changed since the model was saved (SHA-256 {expected[:12]}... then, {now[:12]}... "
            f"now); bring the old file back, or, if it still fits the weights, write {now} into the field {field!r}"
        )
