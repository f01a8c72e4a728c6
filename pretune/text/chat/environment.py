"""Jinja as `transformers` sets it up for chat templates, with bounds on what a template costs.

Source: `transformers.utils.chat_template_utils` 5.23, for what a template may use: blocks are trimmed, loops
have `break` and `continue`, `tojson` escapes nothing; `strftime_now`, `raise_exception`, `{% generation %}` are there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import nodes, pass_context, pass_eval_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from pretune.text.chat.bounds import (
    Budget,
    TemplateLimitError,
    check_call,
    check_format,
    check_operator,
    measurable,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2.parser import Parser


BEGIN, END = "\ufdd0", "\ufdd1"
"""Characters that no text has: Unicode keeps them free for such use."""


class TemplateRefusalError(TemplateError):
    """What a template says with `raise_exception`."""


class Generation(Extension):
    """The block `{% generation %}`, which says what an assistant writes."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of `_note` with the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _note(self, context: nodes.EvalContext, caller: Macro) -> str:
        """Writes the block, between marks where these are wanted: only they stay with it in a macro."""
        del context
        text = str(caller())
        environment = self.environment
        assert isinstance(environment, ChatEnvironment)
        return f"{BEGIN}{text}{END}" if environment.marks_generation else text


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one template; it renders one text at a time.

    Args:
        now: what `strftime_now` calls now, so that all texts of a run or a conversation have one date.

    Attributes:
        marks_generation: what stands in `{% generation %}` is written between `BEGIN` and `END`.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, now: datetime) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, "jinja2.ext.loopcontrols"],
            finalize=_count_output,
        )
        self._budget: Budget | None = None
        self.marks_generation = False
        self.filters = {name: self._bounded(name, filter_) for name, filter_ in self.filters.items()}
        self.filters["tojson"] = self._bounded("tojson", _to_json)
        self.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda format: _date(now, format),
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self.globals.pop("lipsum")

    @contextmanager
    def rendering(self, *, marks_generation: bool) -> Iterator[None]:
        """One text, with a budget of its own."""
        self._budget, self.marks_generation = Budget(), marks_generation
        try:
            yield
        finally:
            self._budget, self.marks_generation = None, False

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _CountsSteps().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def count(self, characters: int = 0) -> None:
        """Counts a step of a template and what it writes; while one is compiled there is nothing to count."""
        if self._budget is not None:
            self._budget.step(characters)

    def concatenate(self, *values: object) -> str:
        """What `~` gives."""
        self.count(size_of(list(values)))
        return "".join(map(str, values))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function, as the sandbox lets it."""
        self.count()
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # the sandbox wraps `format`
        name = getattr(function, "__name__", "")
        if isinstance(owner, str | bytes | list | dict) or name == "range":
            args = tuple(measurable(name, args))
            check_call(name, owner, [*args, *kwargs.values()])
        out = super().call(context, function, *args, **kwargs)
        if isinstance(owner, str) and isinstance(out, str):
            self.count(len(out) // 16)
        return out

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator that could give something large."""
        check_operator(operator, left, right)
        self.count()
        return super().call_binop(context, operator, left, right)

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose result is not too long."""
        passed = int(hasattr(function, "jinja_pass_arg"))  # the context, or what else comes first

        @functools.wraps(function)
        def apply(*args: Any, **kwargs: Any) -> Any:
            first, values = args[:passed], measurable(name, args[passed:])
            self.count()
            if values:
                check_call(name, values[0], [*values[1:], *kwargs.values()])
            return function(*first, *values, **kwargs)

        return apply


class _CountsSteps(NodeTransformer):
    """Lets loops and macros count their turns, and measures what `~` puts together."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # as Jinja's
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenate", node.nodes, node.lineno)

    def _counted(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        written = sum(len(data.data) for part in node.body for data in _literals(part))
        count = _call("count", [nodes.Const(written, lineno=node.lineno)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(count, lineno=node.lineno))
        return node


def _literals(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    """What a block writes as it stands."""
    if isinstance(node, nodes.TemplateData):
        yield node
    yield from node.find_all(nodes.TemplateData)


def _call(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name, lineno=line), arguments, [], None, None, lineno=line)


@pass_context
def _count_output(context: Context, value: object) -> str:
    """A value as text, counted; it sees every value, as nothing is written while a template is compiled."""
    text = value if isinstance(value, str) else _written(value)
    environment = context.environment
    if isinstance(environment, ChatEnvironment):
        environment.count(len(text))
    return text


def _written(value: object) -> str:
    size_of(value)
    return str(value)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """A value as JSON, without the escapes that Jinja's own filter makes for pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _date(now: datetime, pattern: str) -> str:
    """A date as `strftime` writes it."""
    if len(pattern) > 256:
        raise TemplateLimitError("its pattern of a date has more than 256 characters")
    check_format(pattern, ())
    return now.strftime(pattern)


def _refuse(message: object) -> None:
    raise TemplateRefusalError(str(message))


class _Dict:
    """What a template may do with `dict`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As of a dict."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Variables that outlive a loop; names that begin with an underscore are refused."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a variable may be called self
        own, *values = args
        variables: Mapping[Any, Any] = dict(*values, **kwargs)
        for name in variables:
            _check_name(name)
        Namespace.__init__(own, variables)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no variable {name!r}; names must not begin with an underscore")
