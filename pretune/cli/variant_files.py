"""Reads what a variant's file says of itself, without importing it: that would take a second for torch.

A file's docstring describes the variant; its class `Config` (of its own, or inside its one class) holds the fields,
with types, defaults and a docstring that says what each means. Bases are followed from file to file.
"""

from __future__ import annotations

import ast
import inspect
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pretune

ROOT = Path(pretune.__file__).parent.parent
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8,}.*)*)", re.MULTILINE)
_NAMES = {"int": "INTEGER", "float": "NUMBER", "bool": "BOOLEAN", "str": "TEXT"}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], object]] = {
    ast.Div: operator.truediv,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
_CONTAINERS = {"tuple": "LIST", "list": "LIST", "Sequence": "LIST", "dict": "TABLE", "Mapping": "TABLE"}


@dataclass(frozen=True)
class FieldEntry:
    """A field as help shows it.

    Attributes:
        name: dotted, without dashes.
        type: TEXT, NUMBER, a|b ...
        default: as it is written in a recipe; empty where there is none.
        meaning: a sentence or two.
    """

    name: str
    type: str
    default: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class VariantFile:
    """What a file says of its variant.

    Attributes:
        description: its docstring.
        fields: of its configuration, those of its bases first.
        sizes: named sizes, of a family.
    """

    description: str
    fields: list[FieldEntry]
    sizes: list[str]

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.description.partition("\n\n")[0].split())


def read_variant(axis: str, name: str) -> VariantFile:
    """Reads a variant of an axis.

    Args:
        axis: folder of the variants in pretune.
        name: file name of the variant, or a user's own file.
    """
    source = _Source.of(name.partition(":")[0]) if is_own_file(name) else _Source.read(f"pretune.{axis}.{name}")
    config = _config_of(source)
    fields = [] if config is None else list(_fields(*config).values())
    return VariantFile(ast.get_docstring(source.tree) or "", fields, _sizes(source))


def is_own_file(name: str) -> bool:
    """Whether a name is that of a user's own file, which is there."""
    path = name.partition(":")[0]
    return path.endswith(".py") and Path(path).is_file()


def read_config(module: str, name: str, prefix: str = "") -> list[FieldEntry]:
    """Reads the fields of a configuration class, those of the tables in it last.

    Args:
        module: dotted name of the file.
        name: of the class.
        prefix: of the names of the fields.
    """
    config = _find_class(_Source.read(module), ast.Name(name))
    fields = {} if config is None else _fields(*config)
    return [replace(field, name=f"{prefix}{field.name}") for field in fields.values()]


def attributes(docstring: str) -> dict[str, str]:
    """What the `Attributes:` section of a docstring says of each field."""
    out: dict[str, str] = {}
    for group, text in _ENTRY.findall(inspect.cleandoc(docstring).partition("Attributes:")[2]):
        out |= dict.fromkeys(group.split(", "), " ".join(text.split()))
    return out


@dataclass(frozen=True, eq=False)
class _Source:
    """A module of pretune as its text."""

    tree: ast.Module

    @staticmethod
    @cache
    def read(module: str) -> _Source:
        """The module of a dotted name.

        Raises:
            FileNotFoundError: none of pretune's.
        """
        base = ROOT.joinpath(*module.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        return _Source(ast.parse(path.read_text(encoding="utf-8")))

    @staticmethod
    def of(path: str) -> _Source:
        """A user's own file; an empty one where Python cannot read it, which a run explains."""
        try:
            return _Source(ast.parse(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, SyntaxError):
            return _Source(ast.Module([], []))

    def assigned(self, name: str) -> ast.expr | None:
        """What the module assigns to a name."""
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                value: ast.expr | None = getattr(node, "value", None)
                return value
        return None

    def imported(self, name: str) -> tuple[str, str] | None:
        """Module and name there of what `from module import name` names; only pretune's own."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pretune"):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return str(node.module), alias.name
        return None


_Class = tuple[_Source, ast.ClassDef]


def _sizes(source: _Source) -> list[str]:
    """The names of a family's sizes, its own or those of the family that it shares them with."""
    value = source.assigned("SIZES")
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        other = source.imported(value.value.id)
        return [] if other is None else _sizes(_Source.read(".".join(other)))
    keys = value.keys if isinstance(value, ast.Dict) else []
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def _config_of(source: _Source) -> _Class | None:
    """The class `Config` of a file, or that inside the one public class that has or inherits one."""
    own = _find_class(source, ast.Name("Config"))
    if own is not None and own[0] is source:
        return own
    public = [node for node in source.tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    configs = (_inner(source, node, "Config") for node in reversed(public))
    return next((config for config in configs if config is not None), None)


def _find_class(source: _Source, expression: ast.expr) -> _Class | None:
    """The class that an expression names, in the file itself or in one that it imports from."""
    if isinstance(expression, ast.Attribute):
        outer = _find_class(source, expression.value)
        if outer is not None:
            return _inner(*outer, expression.attr)
        module = source.imported(expression.value.id) if isinstance(expression.value, ast.Name) else None
        return None if module is None else _find_class(_Source.read(".".join(module)), ast.Name(expression.attr))
    if not isinstance(expression, ast.Name):
        return None
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and node.name == expression.id:
            return source, node
    origin = source.imported(expression.id)
    if origin is None or _is_module(".".join(origin)):
        return None
    return _find_class(_Source.read(origin[0]), ast.Name(origin[1]))


def _is_module(name: str) -> bool:
    base = ROOT.joinpath(*name.split("."))
    return base.is_dir() or base.with_suffix(".py").is_file()


def _inner(source: _Source, outer: ast.ClassDef, name: str) -> _Class | None:
    """A class inside a class, or inside one of its bases."""
    for node in outer.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return source, node
    for base in _bases(source, outer):
        if (inner := _inner(*base, name)) is not None:
            return inner
    return None


def _bases(source: _Source, node: ast.ClassDef) -> Iterator[_Class]:
    for base in node.bases:
        expression = base.value if isinstance(base, ast.Subscript) else base
        if (parent := _find_class(source, expression)) is not None and parent[1] is not node:
            yield parent


def _fields(source: _Source, node: ast.ClassDef) -> dict[str, FieldEntry]:
    """The fields of a configuration class by name, those of its bases first; what a class says anew replaces.

    Those of a table in it have dotted names, and are last.
    """
    out: dict[str, FieldEntry] = {}
    for base in reversed(list(_bases(source, node))):
        out |= _fields(*base)
    meanings = attributes(ast.get_docstring(node) or "")
    out |= {name: replace(out[name], meaning=meaning) for name, meaning in meanings.items() if name in out}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_field(item):
            name = item.target.id
            if (table := _table(source, item.annotation)) is not None:
                out |= {f"{name}.{key}": replace(entry, name=f"{name}.{key}") for key, entry in _fields(*table).items()}
                continue
            meaning = meanings.get(name) or (out[name].meaning if name in out else "")
            out[name] = FieldEntry(name, _type(source, item.annotation), _default(source, item.value), meaning)
    return dict(sorted(out.items(), key=lambda entry: "." in entry[0]))


def _table(source: _Source, annotation: ast.expr) -> _Class | None:
    """The configuration class that an annotation names, alone or beside None."""
    options = [annotation.left, annotation.right] if isinstance(annotation, ast.BinOp) else [annotation]
    classes = (_find_class(source, option) for option in options)
    return next((each for each in classes if each is not None), None)


def _is_field(item: ast.AnnAssign) -> bool:
    assert isinstance(item.target, ast.Name)
    return not item.target.id.startswith("_") and not ast.unparse(item.annotation).startswith("ClassVar")


def _type(source: _Source, annotation: ast.expr) -> str:
    """Renders an annotation as `pretune.cli.fields` renders a type."""
    if isinstance(annotation, ast.BinOp):
        names = (_type(source, side) for side in (annotation.left, annotation.right))
        return " or ".join(name for name in names if name)
    if isinstance(annotation, ast.Constant):
        return ""  # None beside a type
    if isinstance(annotation, ast.Subscript):
        return _subscript(source, ast.unparse(annotation.value), annotation.slice)
    if isinstance(annotation, ast.Attribute) and isinstance(annotation.value, ast.Name):
        module = source.imported(annotation.value.id)
        return "VALUE" if module is None else _type(_Source.read(".".join(module)), ast.Name(annotation.attr))
    if not isinstance(annotation, ast.Name):
        return "VALUE"
    if annotation.id in _NAMES or annotation.id in _CONTAINERS:
        return (_NAMES | _CONTAINERS)[annotation.id]
    value = source.assigned(annotation.id)
    if value is not None:
        return _type(source, value)
    origin = source.imported(annotation.id)
    return "VALUE" if origin is None else _type(_Source.read(origin[0]), ast.Name(origin[1]))


def _subscript(source: _Source, name: str, inner: ast.expr) -> str:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return "|".join(_written(ast.literal_eval(part)) for part in parts)
    return _type(source, parts[0]) if name in ("Annotated", "Optional") else _CONTAINERS.get(name, "VALUE")


def _default(source: _Source, value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):
        named = (keyword.value for keyword in value.keywords if keyword.arg == "default")
        value = value.args[0] if value.args else next(named, None)
    if isinstance(value, ast.Name):
        value = source.assigned(value.id)
    try:
        return written_default(None if value is None else _evaluated(value))
    except ValueError:  # made when the class is
        return ""


def _evaluated(value: ast.expr) -> object:
    """The value of a literal, or of two numbers and an operator.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, ast.BinOp) and type(value.op) in _OPERATORS:
        return _OPERATORS[type(value.op)](ast.literal_eval(value.left), ast.literal_eval(value.right))
    return ast.literal_eval(value)


def written_default(value: object) -> str:
    """A default as a recipe writes it; empty where there is none."""
    return "" if value is None or value in ((), {}, "", []) else _written(value)


def _written(value: object) -> str:
    """A value as one types it behind a flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(map(str, value))
    return ", ".join(map(_written, value)) if isinstance(value, list | tuple) else f"{value}"


def read_constant(axis: str, name: str, attribute: str) -> str:
    """A text that the class of a variant, or one of its bases, assigns in its body; empty where none does."""
    source = _Source.read(f"pretune.{axis}.{name}")
    classes = [node for node in source.tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    values = (_constant(source, node, attribute) for node in reversed(classes))
    return next((value for value in values if value), "")


def _constant(source: _Source, node: ast.ClassDef, attribute: str) -> str:
    for item in node.body:
        is_it = isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == attribute
        if is_it and isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Constant):
            return str(item.value.value)
    return next((value for base in _bases(source, node) if (value := _constant(*base, attribute))), "")
