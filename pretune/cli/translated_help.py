"""Shows cyclopts' help in the language of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretune.cli.help_panels import plain_panel
from pretune.language import current_language, translate

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec, HelpEntry, HelpPanel, InlineText
    from rich.console import Console, ConsoleOptions


class TranslatedFormatter:
    """Renders help as cyclopts does, with its texts translated."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Renders a panel, such as the parameters of a group."""
        from cyclopts.help import DefaultFormatter

        plain = plain_panel(panel)
        if plain is None:
            return
        panel = plain
        if current_language() == "en":
            DefaultFormatter()(console, options, panel)
            return
        entries = [_entry(each) for each in panel.entries]
        formatter = DefaultFormatter(column_specs=_columns if panel.format == "parameter" else None)
        formatter(console, options, panel.copy(title=translate(str(panel.title)), entries=entries))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: object) -> None:
        """Renders the line that says how a verb is called."""
        from cyclopts.help import DefaultFormatter

        if usage is not None and current_language() != "en":
            console.print(f"{translate('Usage:')}{usage}", markup=False, highlight=False)
        else:
            DefaultFormatter().render_usage(console, options, usage)

    def render_description(self, console: Console, options: ConsoleOptions, description: object) -> None:
        """Renders what a verb is for."""
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_description(console, options, _description(description))


def _columns(console: Console, options: ConsoleOptions, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:
    """The columns of cyclopts, the last of which shows the description alone: `_entry` has laid the facts beside it."""
    from cyclopts.help.specs import get_default_parameter_columns

    *others, last = get_default_parameter_columns(console, options, entries)
    return *others, last.copy(renderer=lambda entry: entry.description)


def _entry(entry: HelpEntry) -> HelpEntry:
    """A row of a panel; what cyclopts adds to its description is translated with it."""
    from rich.text import Text

    facts = [f"[choices: {', '.join(entry.choices)}]"] if entry.choices else []
    facts += [] if entry.default is None else [f"[default: {entry.default}]"]
    facts += ["[required]"] if entry.required else []
    description = _description(entry.description)
    for fact in facts:
        description.append(Text(translate(fact), "dim"))
    return entry.copy(description=description, choices=None, default=None)


def _description(description: Any) -> InlineText:
    """A description in Markdown, translated paragraph by paragraph."""
    from cyclopts.help import InlineText
    from rich.text import Text

    inline = description if isinstance(description, InlineText) else InlineText(description or Text(end=""))
    source: str | None = getattr(inline.primary_renderable, "markup", None)
    if source is None or current_language() == "en":
        return inline
    paragraphs = (translate(" ".join(part.split())) for part in source.split("\n\n"))
    translated = InlineText.from_format("\n\n".join(paragraphs), format="markdown")
    translated.texts = inline.texts
    return translated
