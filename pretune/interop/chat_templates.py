"""Checks that the chat templates of a folder parse. They are handed on for chat software, and never run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.errors import DataError
from pretune.field_table import shown_value
from pretune.interop.safety import read_json
from pretune.text.tokenizer.layout_check import SETTINGS_LIMIT

if TYPE_CHECKING:
    from jinja2 import Environment

CONFIG, FIELD = "tokenizer_config.json", "chat_template"
MAX_TEMPLATE = 256 << 10
"""Characters of a template: the longest that are published have some tens of thousands."""
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
    if not templates:
        return
    import jinja2

    environment = _environment()
    for where, template in templates:
        if len(template) > MAX_TEMPLATE:
            raise DataError(
                f"{where}: a chat template of {len(template):,} characters, more than {MAX_TEMPLATE:,}; remove it"
            )
        try:
            environment.parse(template)
        except jinja2.TemplateSyntaxError as error:
            line = template.splitlines()[error.lineno - 1 : error.lineno]
            raise DataError(
                f"{where}: the chat template does not parse: line {error.lineno}, {shown_value(*line or [''])}: "
                f"{error.message}; correct it, or remove it"
            ) from None
        except RecursionError:
            raise DataError(f"{where}: the chat template is nested too deep; correct it, or remove it") from None


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


def _environment() -> Environment:
    """Jinja with what chat templates use beside it: `break`, `continue`, and the `generation` of `transformers`."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Environment(extensions=[Generation, "jinja2.ext.loopcontrols"])  # nothing is rendered
