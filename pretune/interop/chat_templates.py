"""Checks that the chat templates of a folder parse. They are handed on for chat software, and never run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.errors import DataError
from pretune.field_table import shown_value
from pretune.interop.safety import read_json

if TYPE_CHECKING:
    from jinja2 import Environment

CONFIG, FIELD = "tokenizer_config.json", "chat_template"


def check_chat_templates(folder: Path, files: Mapping[str, bytes]) -> None:
    """Parses every chat template of a folder.

    Args:
        files: contents of the template files, by name; those of tokenizer_config.json are read.

    Raises:
        DataError: a template that does not parse, with its file or field, its line and the remedy.
    """
    templates = [*_of_files(folder, files), *_of_config(folder / CONFIG)]
    if not templates:
        return
    import jinja2

    environment = _environment()
    for where, template in templates:
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
    value = read_json(path).get(FIELD) if path.is_file() else None
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
