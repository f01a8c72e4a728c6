"""Extracts the texts that may reach the screen from Python source, as an extraction method of Babel.

Messages stay f-strings where they are raised and said. `f"{path}: no such {what}"` becomes the message
`{path}: no such {what}`, whose holes a translation may put in another order. A condition between two texts gives a
message for each of them, and texts that are added to each other are one message. Taken is every text that reads as
words, wherever it stands, for a message may be composed of parts from several functions; of docstrings, only what
`--help` shows.

    make messages    # extracts, and lays what is new into the catalogues
"""

from __future__ import annotations

import ast
import inspect
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count, product
from pathlib import Path
from typing import IO, Any, TypeGuard

from docstring_parser import parse as parse_docstring

# What is compared, searched or looked up is no message.
_LOOKUPS = (
    *("compile", "match", "search", "fullmatch", "sub", "findall", "startswith", "endswith", "removeprefix"),
    *("removesuffix", "replace", "split", "rsplit", "partition", "rpartition", "getattr", "setattr", "hasattr", "get"),
    *(
        "encode",
        "import_module",
        "TypeVar",
        "NewType",
        "getLogger",
        "getenv",
        "at",
        "strftime",
        "index",
        "count",
        "filterwarnings",
    ),
)
_SILENT = ("AssertionError", "NotImplementedError", "RuntimeError", "TypeError", "AttributeError", "KeyError")
_SETTINGS = ("loc", "encoding", "mode", "newline", "bbox_inches")  # keywords whose texts are never shown
_MOST_VARIANTS = 8
_WORDS = re.compile(r"(?:^|[^\w{.\-/<\[])[A-Za-z][a-z]+(?:[ ,;:.)?!]|$)")
_COMMAND = re.compile(r"^(?:pretune|pip|hf|jq|iconv|make|soffice|pandoc|pdftotext) [\w\-{]|^<!--")
_CODE = re.compile(r"^[\w.\-/]*$|^(?:import|from|def|class) |[{}=]{2}|^[\s\W]*$|^[\w-]+(?:\.[\w-]+)+$")
_AXES = ("models", "objectives", "tasks", "vector_losses", "tune", "optim")
_FORMAT_HOLE = re.compile(r"\{\{([a-z]\w+)\}\}")  # of a text that `format` fills in
_LIMITS = ("gt", "ge", "lt", "le", "min_length", "max_length", "multiple_of")
_LOG_HOLE = re.compile(r"%(?:[sr]|0?\d*d|\.\df)")
_TAG = re.compile(
    r"</?(?:a|b|code|details|div|em|figure|footer|h[1-6]|header|i|li|main|p|pre|section|small|span|strong|summary|svg|"
    r"t[dhr]|table|tbody|text|thead|title|ul)(?: [^<>]*)?>"
)
_SECTION = re.compile(r"^(?:Args|Attributes|Raises|Returns|Yields):", re.MULTILINE)
_NUMERIC = re.compile(r"\d*[,_]?(?:\.\d+)?[dfeg%]|,")

Message = tuple[int, str | None, str, list[str]]


def extract(
    fileobj: IO[bytes], keywords: Mapping[str, Any], comment_tags: Collection[str], options: Mapping[str, Any]
) -> Iterator[Message]:
    """Yields line, function, message and comments, as Babel wants them.

    Args:
        fileobj: a Python file.
        keywords, comment_tags, options: of Babel; without use here.
    """
    source = fileobj.read().decode("utf-8")
    path = Path(fileobj.name)
    if _is_variant(path):
        yield from ((1, None, part, []) for part in _paragraphs(ast.get_docstring(ast.parse(source)) or ""))
    for line, text in messages(source):
        yield line, None, text, []


def _is_variant(path: Path) -> bool:
    """Whether a file is a variant of an axis, whose docstring `pretune show` prints."""
    if path.parent.name not in _AXES or path.stem.startswith("_"):
        return False
    package = ast.parse((path.parent / "__init__.py").read_text(encoding="utf-8"))
    shared = next((node.value for node in package.body if _assigns(node, "SHARED_MODULES")), None)
    return shared is None or path.stem not in ast.literal_eval(shared)


def _assigns(node: ast.stmt, name: str) -> TypeGuard[ast.Assign]:
    """Whether a statement assigns to a name."""
    return isinstance(node, ast.Assign) and any(isinstance(each, ast.Name) and each.id == name for each in node.targets)


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of every message of a Python file."""
    tree = ast.parse(source)
    yield from _help(tree)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in calls:
        marked = call.args if _called(call) in ("N_", "Group") else []
        marked = [*marked, *(each.value for each in call.keywords if each.arg in ("help", "help_epilogue"))]
        yield from ((call.lineno, str(each.value)) for each in marked if isinstance(each, ast.Constant))
        if _called(call) == "translate":  # which shows a single word, too
            words = (text.strip() for each in call.args for text in _variants(each))
            yield from ((call.lineno, text) for text in words if text and "{" not in text and "\n" not in text)
    for node in ast.walk(tree):
        yield from _counted(node)
    for line, text in _texts(tree):
        yield from ((line, part) for part in _parts(text))


def _counted(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields singular and plural of `counted(n, "step")`, which puts a number before a noun."""
    if isinstance(node, ast.Call) and _called(node) == "counted":
        one, *many = (_variants(each) for each in node.args[1:])
        for noun in (*one, *(many[0] if many else (f"{noun}s" for noun in one))):
            yield node.lineno, f"{{number:n}} {noun}"


def _parts(text: str) -> Iterator[str]:
    """Yields what is shown as one: the paragraphs of a page, or the lines of a message; without space around them."""
    is_page = text.startswith("\n") or "\n\n" in text.strip("\n")
    for part in re.split(r"\n\s*\n", text) if is_page else text.split("\n"):
        for node in _TAG.split(part):  # of the report's page, whose texts are rendered one by one
            message = " ".join(node.split()) if is_page else node.strip()
            if reads_as_words(message):
                yield message


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the texts of an expression or statement and of all that is in it, but docstrings and lookups."""
    if isinstance(node, ast.expr) and (variants := _variants(node)):
        for variant in dict.fromkeys(variants):
            yield node.lineno, variant
        for inner in _holes(node):
            yield from _texts(inner)
        return
    if isinstance(node, ast.Call) and _called(node) in ("N_", "Group", "counted"):
        for inner in [] if _called(node) != "counted" else node.args[:1]:
            yield from _texts(inner)
        return
    for child in _children(node):
        yield from _texts(child)


def _children(node: ast.AST) -> Iterable[ast.AST]:
    """The parts of a node in which messages may stand."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        body = [each for each in node.body if not _is_docstring(each)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return [*body, *(value for value in (*node.args.defaults, *node.args.kw_defaults) if value is not None)]
        return body
    if isinstance(node, ast.Compare | ast.Subscript | ast.Assert | ast.match_case):
        return [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.Call | ast.IfExp | ast.stmt)]
    if isinstance(node, ast.AnnAssign):
        return [] if node.value is None else [node.value]
    if isinstance(node, ast.Dict):
        return [*(key for key in node.keys if isinstance(key, ast.JoinedStr | ast.Constant)), *node.values]
    if isinstance(node, ast.Call):
        if _called(node) in (*_SILENT, *_LOOKUPS):
            return [node.func]
        return [node.func, *node.args, *(each.value for each in node.keywords if each.arg not in _SETTINGS)]
    return ast.iter_child_nodes(node)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _variants(node: ast.expr) -> list[str]:
    """The messages that a text expression may give; none if it is none."""
    if isinstance(node, ast.Constant):
        return [_with_holes(node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return _joined([_part(value) for value in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _variants(node.left), _variants(node.right)
        if not left and not right:
            return []
        return _joined([left or [_hole(node.left)], right or [_hole(node.right)]])
    if isinstance(node, ast.IfExp):
        body, other = _variants(node.body), _variants(node.orelse)
        return [*body, *other] if body and other else []
    return []


def _part(node: ast.expr) -> list[str]:
    """The variants of a part of an f-string: a literal, a choice between literals, or a hole."""
    if isinstance(node, ast.FormattedValue):
        inner = _variants(node.value) if isinstance(node.value, ast.IfExp) else []
        return inner or [_hole(node.value, node)]
    return _variants(node)


def _joined(parts: list[list[str]]) -> list[str]:
    number = 1
    for part in parts:
        number *= len(part)
    if number > _MOST_VARIANTS:  # too many to translate one by one: the choices become holes
        parts = [part if len(part) == 1 else [f"{{choice{at}}}"] for at, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*parts)]


def _holes(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions in the holes of a text, and the branches of its conditions."""
    if isinstance(node, ast.JoinedStr):
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield value.value
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            yield from _holes(side) if _variants(side) else [side]
    elif isinstance(node, ast.IfExp):
        yield node.test
        yield from (*_holes(node.body), *_holes(node.orelse))


def _hole(node: ast.expr, formatted: ast.FormattedValue | None = None) -> str:
    """Names a hole after its expression; `:n` marks a number's, `:c` that of a number with its noun."""
    name = re.sub(r"\W+", "_", ast.unparse(node)).strip("_").lower()
    if len(name) > 30:  # a checksum keeps two long expressions apart
        name = f"{name[:26].rstrip('_')}_{zlib.crc32(name.encode()) % 1000}"
    name = f"v_{name}" if not name or name[0].isdigit() else name
    if isinstance(node, ast.Call) and _called(node) == "counted":
        return f"{{{name}:c}}"
    return f"{{{name}:n}}" if _is_number(node, formatted) else f"{{{name}}}"


def _is_number(node: ast.expr, formatted: ast.FormattedValue | None) -> bool:
    if formatted is not None and isinstance(formatted.format_spec, ast.JoinedStr):
        spec = "".join(str(each.value) for each in formatted.format_spec.values if isinstance(each, ast.Constant))
        return _NUMERIC.fullmatch(spec) is not None
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("len", "sum", "round")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _format_hole(hole: re.Match[str]) -> str:
    """A hole that `format` fills in: pydantic's limits are numbers."""
    return f"{{{hole[1]}:n}}" if hole[1] in _LIMITS else f"{{{hole[1]}}}"


def _with_holes(text: str) -> str:
    """Makes holes of `%s` and `%d`, by which logging fills in values, and of `{name}` of `format`."""
    text = _FORMAT_HOLE.sub(_format_hole, _escaped(text))
    numbers = count(1)
    marks = {"s": "", "r": ""}
    filled = _LOG_HOLE.sub(lambda hole: f"{{v{next(numbers)}{marks.get(hole[0][-1], ':n')}}}", text)
    return filled.replace("%%", "%")


def reads_as_words(message: str) -> bool:
    """Whether a message holds words, and is no name, path, pattern or code."""
    literal = re.sub(r"\{\w+(?::[nc])?\}", "\0", message)
    if " " not in literal.strip(" ") and not ("\0" in literal and " " in literal):
        return False
    return _WORDS.search(literal) is not None and not (_CODE.search(literal) or _COMMAND.search(message))


def _help(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields what `--help` shows: docstrings of verbs, and what `Attributes:` says of fields and flags."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            if isinstance(node, ast.FunctionDef) and _is_verb(node):
                yield from ((node.lineno, part) for part in docstring_parts(text, summary=True))
            elif isinstance(node, ast.ClassDef) and _has_fields(node):
                yield from ((node.lineno, part) for part in docstring_parts(text, summary=False))


def _is_verb(node: ast.FunctionDef) -> bool:
    """Whether a function is a verb of the command line: registered where it stands, or with the flags of every verb."""
    common = any(isinstance(arg.annotation, ast.Name) and arg.annotation.id == "Common" for arg in _arguments(node))
    return common or any("command" in ast.unparse(decorator) for decorator in node.decorator_list)


def _arguments(node: ast.FunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _has_fields(node: ast.ClassDef) -> bool:
    """Whether a class holds the fields of a recipe or the flags of a verb."""
    bases = " ".join([node.name, *map(ast.unparse, node.bases)])
    return re.search(r"Config\b|Recipe|Flags|Session", bases) is not None


def _paragraphs(text: str) -> Iterator[str]:
    """Yields the paragraphs of a docstring, each in one line; lists and tables are shown as they are."""
    for part in re.split(r"\n\s*\n", text):
        if part.strip() and not part.startswith((" ", "|")):
            items = re.split(r"^[-*] ", part, flags=re.MULTILINE)
            yield from (_escaped(" ".join(item.split())) for item in items if item.strip())


def docstring_parts(text: str, summary: bool) -> Iterator[str]:
    """Yields the paragraphs of a docstring and its descriptions of arguments, each in one line.

    Args:
        summary: with the paragraphs; without, what is said of arguments alone.
    """
    parsed = parse_docstring(text)
    if summary:
        yield from _paragraphs(_SECTION.split(inspect.cleandoc(text))[0])
    for param in parsed.params:
        if param.description:
            yield _escaped(" ".join(param.description.split()))
