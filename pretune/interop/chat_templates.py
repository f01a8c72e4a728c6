"""Checks that the chat templates of a folder parse; `text/chat` renders them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from pretune.errors import DataError
from pretune.interop.safety import read_json
from pretune.text.chat.template import MAX_TEMPLATE as MAX_TEMPLATE
from pretune.text.chat.template import check_template
from pretune.text.tokenizer.layout_check import SETTINGS_LIMIT

CONFIG, FIELD = "tokenizer_config.json", "chat_template"
MAX_TEMPLATES = 64


def check_chat_templates(folder: Path, files: Mapping[str, bytes]) -> None:
    """Parses every chat template of a folder.

    Args:
        files: contents of the template files, by name; those of tokenizer_config.json are read.

    Raises:
        DataError: a template that does not parse, with its file or field, its line and the remedy; one too long, or too
            many.
    """
    templates = [*islice(chain(_of_files(folder, files), _of_config(folder / CONFIG)), MAX_TEMPLATES + 1)]
    if len(templates) > MAX_TEMPLATES:
        raise DataError(f"{templates[-1][0]}: more than {MAX_TEMPLATES} chat templates; remove those that nobody uses")
    for where, template in templates:
        check_template(template, where)


def _of_files(folder: Path, files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    for name, content in files.items():
        if name.endswith(".jinja"):
            try:
                yield str(folder / name), content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{folder / name}: not UTF-8: {error}; correct it, or remove it") from None


def _of_config(path: Path) -> Iterator[tuple[str, str]]:
    value = read_json(path, SETTINGS_LIMIT).get(FIELD) if path.is_file() else None
    if isinstance(value, str):
        yield f"{path}: field {FIELD!r}", value
    named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in named:
        template = entry.get("template") if isinstance(entry, dict) else entry
        if isinstance(template, str):
            yield f"{path}: field '{FIELD}[{name}]'", template
