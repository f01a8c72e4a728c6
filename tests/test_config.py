from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from pretune import config
from pretune.errors import MissingInputError, UsageError
from pretune.train.recipe import Recipe


class Inner(config.Config):
    lr: float = Field(default=1e-3, gt=0.0)
    kind: Literal["linear", "cosine"] = "linear"
    betas: tuple[float, float] = (0.9, 0.98)


class Outer(config.Config):
    steps: int = 10
    name: str = "run"
    resume: bool = True
    path: str | None = None
    optimizer: Inner = Inner()
    objective: dict[str, float | dict[str, float]] = Field(default_factory=dict)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_words_lie_over_the_file_over_the_base(tmp_path: Path) -> None:
    path = write(tmp_path, "steps = 5\n[optimizer]\nlr = 0.5\n")
    base = {"steps": 1, "name": "base", "optimizer": {"kind": "cosine"}}
    actual = config.load(Outer, path, ["--optimizer.lr", "3e-4"], base)
    assert (actual.steps, actual.name) == (5, "base")
    assert (actual.optimizer.lr, actual.optimizer.kind) == (3e-4, "cosine")
    assert config.load(Outer) == Outer()


@pytest.mark.parametrize(
    ("words", "tree"),
    [
        (["--a.b", "3e-4"], {"a": {"b": 3e-4}}),
        (["--a.b=3e-4"], {"a": {"b": 3e-4}}),
        (["--a=x=y"], {"a": "x=y"}),
        (["--steps", "-5"], {"steps": -5}),
        (["--resume"], {"resume": True}),
        (["--no-resume", "--steps", "2"], {"resume": False, "steps": 2}),
        (["--batch-tokens", "7"], {"batch_tokens": 7}),
        (["--a.b", "1", "--a.c", "2"], {"a": {"b": 1, "c": 2}}),
        (["--a", "1", "--a", "2"], {"a": [1, 2]}),
        (["--a", '["x", "y"]', "--a", "z"], {"a": ["x", "y", "z"]}),
        (["--objective", "mlm,sop", "--objective.mlm.rate", "0.3"], {"objective": {"mlm": {"rate": 0.3}, "sop": {}}}),
        (["--objective.mlm.rate", "0.3", "--objective", "sop"], {"objective": {"mlm": {"rate": 0.3}, "sop": {}}}),
        (["--objective.mlm", "2", "--objective.mlm.rate", "0.3"], {"objective": {"mlm": {"weight": 2, "rate": 0.3}}}),
        (["--list", '["x", "y"]'], {"list": ["x", "y"]}),
        (["--table", "{mlm = 1.0}"], {"table": {"mlm": 1.0}}),
        (["--text", "runs/first one"], {"text": "runs/first one"}),
        (["--flag", "true"], {"flag": True}),
        (["--objective.distil.py.teacher", "x"], {"objective": {"distil.py": {"teacher": "x"}}}),
        (["--task.../my-code/a.b/tags.py.a-b.c", "1"], {"task": {"../my-code/a.b/tags.py": {"a_b": {"c": 1}}}}),
        (["--task.mine.py:Tags", "1"], {"task": {"mine.py:Tags": 1}}),
        (["--objective.my.package:Distil.weight=2"], {"objective": {"my.package:Distil": {"weight": 2}}}),
        (["--objective.pyramid.weight", "2"], {"objective": {"pyramid": {"weight": 2}}}),
        ([], {}),
    ],
)
def test_overrides(words: list[str], tree: dict[str, object]) -> None:
    assert config.parse_overrides(words) == tree


@pytest.mark.parametrize("words", [["steps", "5"], ["--"], ["-s", "5"], ["--steps", "5", "6"]])
def test_a_word_that_is_no_override_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="expected --field value"):
        config.parse_overrides(words)


@pytest.mark.parametrize("words", [["--.a", "1"], ["--a.", "1"], ["--a..b", "1"], ["--=5"]])
def test_an_empty_field_name_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        config.load(Outer, overrides=words)


def test_a_value_and_a_table_of_one_name(tmp_path: Path) -> None:
    actual = config.load(Outer, write(tmp_path, "objective = {mlm = 1.0}"), ["--objective.mlm.weight", "0.5"])
    assert actual.objective == {"mlm": {"weight": 0.5}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer.lrr", "1"], "unknown field 'optimizer.lrr'; did you mean 'lr'?"),
        (["--stepz", "1"], "--stepz: there is no such field; did you mean --steps?"),
        (["--steps", "many"], "field 'steps' = \"many\""),
        (["--optimizer.lr", "-1"], "field 'optimizer.lr' = -1: expected a number above 0"),
        (["--optimizer.kind", "step"], "'linear' or 'cosine'"),
        (["--optimizer", "5"], "field 'optimizer' = 5"),
        (["--steps", "1", "--steps", "2"], "field 'steps' is given 2 times (1, 2) and holds one value"),
        (["--name", "a", "--name", "b"], "field 'name' is given 2 times"),
        (["--resume", "--no-resume"], "field 'resume' is given 2 times (true, false)"),
        (["--optimizer.lr", "--steps", "2"], "--optimizer.lr: expected a value; where"),
        (["--steps", "--resume"], "--steps: expected a value"),
        (["--path", "--resume"], "--path: expected a value"),
    ],
)
def test_an_error_names_field_value_and_remedy(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        config.load(Outer, overrides=words)
    assert message in str(error.value)


def test_a_list_adds_up_the_values_of_its_flag() -> None:
    """`--data.stores a --data.stores b` trained on `b` alone."""
    words = ["--data.stores", "a", "--data.stores", "b", "--objective", "mlm", "--output", "o"]
    assert config.load(Recipe, overrides=words).data.stores == ("a", "b")


def test_every_fault_is_reported_at_once_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "stepz = 1\nname = 3\n")
    with pytest.raises(UsageError) as error:
        config.load(Outer, path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize("content", [b"steps = = 1", b"\xff\xfe", b"a = 1\na = 2"])
def test_bad_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not valid TOML"):
        config.load(Outer, path)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such recipe"):
        config.load(Outer, tmp_path / "none.toml")


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "out.toml"
    given = config.load(Outer, overrides=["--objective.mlm.share", "0.3", "--objective.nsp", "1", "--name", 'a"b\\c\n'])
    path.write_text(config.to_toml(given))
    assert config.load(Outer, path) == given
    assert "path" not in path.read_text()


def test_values_do_not_change_after_reading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 3  # type: ignore[misc]


def test_flatten_names_leaves() -> None:
    assert config.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"a = {DEEP}", "nested too deep"),
        ("a" + ".a" * 100_000 + " = 1", "more than 64 parts .at line 1"),
        ("\n[" + "a." * 65 + "a]", "more than 64 parts .at line 2"),
        ("a = {" + "a." * 65 + "a = 1}", "more than 64 parts"),
        ('"=".' * 200_000 + "a = 1", "more than 64 parts .at line 1"),
        ("'\u2028' . " * 100_000 + "a = 1", "more than 64 parts .at line 1"),
        ('s = """\n\' """\n' + '"\\"".' * 100_000 + "a = 1", "more than 64 parts .at line 3"),
        ("seed = " + "1" * 10_000, "a whole number that no field can hold; value has 10000 digits"),
        ("# " + "x" * (1 << 20), "1,048,576 bytes"),
    ],
)
def test_absurd_toml_is_refused_at_once(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(Outer, write(tmp_path, content))


def test_toml_just_within_its_bounds(tmp_path: Path) -> None:
    deep = "objective." + ".".join(["a"] * 50)
    with pytest.raises(UsageError, match="objective"):  # read, and refused by the field
        config.load(Outer, write(tmp_path, f"{deep} = 1"))
    numbers = [n / 8 for n in range(100)]
    with pytest.raises(UsageError, match=r"unknown field 'inline'"):
        config.load(Outer, write(tmp_path, f"inline = {{list = [\n[{numbers}],\n{numbers}], text = '{'.' * 99} = '}}"))
    text = f'name = "{"1.0 = " * 20}"\n#{"x" * ((1 << 20) - 200)}'
    assert config.load(Outer, write(tmp_path, text)).name == "1.0 = " * 20


@pytest.mark.parametrize("value", [DEEP, "1" * 10_000, "{" + "a." * 30_000 + "a = 1}"])
def test_absurd_flags_are_refused_at_once(value: str) -> None:
    with pytest.raises(UsageError, match=r"^--steps .{40}\.\.\.: "):
        config.load(Outer, overrides=["--steps", value])


def test_a_flag_of_thousands_of_parts() -> None:
    with pytest.raises(UsageError, match="more than 64 parts"):
        config.load(Outer, overrides=["--" + "a." * 30_000 + "b", "1"])


def test_thousands_of_problems_are_said_in_a_few_lines(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        config.load(Outer, write(tmp_path, "".join(f"x{n} = 1\n" for n in range(5000))))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert "unknown field 'x0'" in lines[0]
    assert lines[-1].endswith("4,980 more problems like these")


def test_a_number_too_long_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="field 'name' = 0xfff"):
        config.load(Outer, write(tmp_path, "name = 0x" + "f" * 10_000))


def test_numbers_in_quotes_are_none_in_json() -> None:
    assert config.validate(Outer, {"steps": "3"}, "recipe").steps == 3  # as a flag may be read
    assert config.validate(Outer, {"name": "3"}, "x.json", is_json=True).name == "3"
    with pytest.raises(UsageError, match=r"x\.json: field 'steps' = \"3\": expected a number; write it without quotes"):
        config.validate(Outer, {"steps": "3"}, "x.json", is_json=True)
    with pytest.raises(UsageError, match=r"field 'resume' = \"true\": expected true or false; write it without quotes"):
        config.validate(Outer, {"resume": "true"}, "x.json", is_json=True)
