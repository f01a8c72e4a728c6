"""Chat templates: the same text as `transformers`, bounds, and what a template may not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from chatkit import CONVERSATIONS, OWN, TOOL, assistant, chat_tokenizer, drawn_conversation, user

from pretune.errors import DataError, MissingInputError, UsageError
from pretune.text.chat import bounds
from pretune.text.chat.choice import find_chat_template, find_format, formats, role_tokens
from pretune.text.chat.template import ChatTemplate

SOURCES = {**{name: find_format(name).source for name in formats()}, **OWN}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("oracle")
    chat_tokenizer().save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def theirs(oracle: transformers.PreTrainedTokenizerBase, source: str, messages: list[dict], **options: object) -> str:
    """What `transformers` writes, or "refused"."""
    try:
        return oracle.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    except Exception:
        return "refused"


def ours(source: str, messages: list[dict], **options: object) -> str:
    try:
        return ChatTemplate(source, role_tokens(chat_tokenizer())).render(messages, **options)
    except DataError:
        return "refused"


def test_there_are_ten() -> None:
    assert {"chatml", "llama2", "llama3", "zephyr", "mistral", "gemma", "phi3", "alpaca", "vicuna", "plain"} <= {
        *formats()
    }


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_text_is_that_of_transformers(name: str, oracle: transformers.PreTrainedTokenizerBase) -> None:
    written = 0
    for messages in CONVERSATIONS.values():
        for options in (
            {},
            {"add_generation_prompt": True},
            {"tools": [TOOL]},
            {"add_generation_prompt": True, "x": 1},
        ):
            want = theirs(oracle, SOURCES[name], messages, **options)
            assert ours(SOURCES[name], messages, **options) == want
            written += want != "refused"
    assert written > len(CONVERSATIONS)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"macros"}))
def test_the_last_message_is_continued_as_in_transformers(
    name: str, oracle: transformers.PreTrainedTokenizerBase
) -> None:
    for messages in CONVERSATIONS.values():
        want = theirs(oracle, SOURCES[name], messages, continue_final_message=True)
        assert ours(SOURCES[name], messages, continue_final_message=True) == want


def test_generation_spans_are_those_of_transformers(oracle: transformers.PreTrainedTokenizerBase) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for messages in CONVERSATIONS.values():
        texts, spans = render_jinja_template(
            [messages], chat_template=OWN["generation"], return_assistant_tokens_mask=True
        )
        rendered = ChatTemplate(OWN["generation"]).render_with_spans(messages)
        assert (rendered.text, list(rendered.spans)) == (texts[0], spans[0])
    assert ChatTemplate(OWN["generation"]).has_generation_tag
    body = "<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}"
    inside = {  # of which transformers names other text: findings/generation_in_a_macro_masks_other_text.sh
        "macro": "{% macro turn(m) %}" + body + "{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}",
        "set": "{% for m in messages %}{% set turn %}" + body + "{% endset %}{{ turn }}{% endfor %}",
    }
    for source in inside.values():
        rendered = ChatTemplate(source).render_with_spans(CONVERSATIONS["turns"])
        assert rendered.text == ChatTemplate(source).render(CONVERSATIONS["turns"])
        assert [rendered.text[start:end] for start, end in rendered.spans] == ["Hello!", "See you."]
    assert not ChatTemplate(OWN["qwen"]).has_generation_tag


def test_tool_calls_and_reasoning_are_written_as_in_transformers(
    oracle: transformers.PreTrainedTokenizerBase,
) -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "时间", "arguments": {"a": "<&>"}}}],
    }
    messages = [user("now?"), call, {"role": "tool", "content": "12"}, assistant("noon", reasoning="hm")]
    thinking = (
        "{% for m in messages %}{{ m.content }}{{ m.thinking }}{{ m.reasoning_content }}{{ m.tool_calls }}{% endfor %}"
    )
    for source in (OWN["qwen"], thinking):
        want = theirs(oracle, source, messages, tools=[TOOL])
        assert want != "refused"
        assert ours(source, messages, tools=[TOOL]) == want


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "takes more than 250,000 steps",
        ),
        ("{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(30) }}", "steps"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"),
        ("{{ 'x' * 10 ** 9 }}", "a text or a list of more than"),
        ("{{ [1] * 10 ** 9 }}", "a text or a list of more than"),
        ("{{ 'x' | center(99999999) }}", "center with the number"),
        ("{{ 'x'.ljust(99999999) }}", "ljust with the number"),
        ("{{ ('a' * 99999) | replace('a', 'b' * 99999) }}", "a text or a list of more than"),
        ("{{ ('ab' * 99999).join(range(9999) | list | map('string')) }}", "more than"),
        ("{{ '%99999999d' % 1 }}", "a width beyond measure"),
        ("{{ '%*d' % (99999999, 1) }}", "a width beyond measure"),
        ("{{ '{:>99999999}'.format(1) }}", "a width beyond measure"),
        ("{{ strftime_now('%99999999Y') }}", "a width beyond measure"),
        ("{{ 9 ** 9999 }}", "a whole number of more than"),
        (
            "{% set n = namespace(x='abc') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "writes more",
        ),
        ("{% set n = namespace(x='abc') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", "more than"),
        ("{% set x %}{% for i in range(9999) %}" + "y" * 9999 + "{% endfor %}{% endset %}", "writes more than"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
)
def test_a_template_that_asks_for_too_much_ends(source: str, message: str) -> None:
    with pytest.raises(DataError, match="the chat template fails: ") as error:
        ChatTemplate(source, where="t.jinja").render([user("Hi")])
    assert message in str(error.value)
    assert str(error.value).startswith("t.jinja")
    assert str(error.value).endswith("correct it, or use another one, such as chatml")


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SECONDS", -1.0)
    with pytest.raises(DataError, match="takes more than -1 seconds"):
        ChatTemplate("{% for i in range(600) %}{% endfor %}").render([user("Hi")])


def test_long_conversations_are_no_harm() -> None:
    messages = [user("x" * 500), assistant("y" * 500)] * 1000
    text = find_format("chatml").with_tokens(chat_tokenizer()).render(messages)
    assert text.count("<|im_end|>") == 2000


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{% set n = namespace(__class__=1) %}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ strftime_now.__globals__.keys() }}",
        "{% include 'file' %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    ],
)
def test_a_template_reaches_nothing_of_python(source: str) -> None:
    with pytest.raises(DataError, match="the chat template fails"):
        ChatTemplate(source).render([user("Hi")])


def test_what_a_template_refuses_is_said_with_its_line() -> None:
    source = "{{ bos_token }}\n{{ raise_exception('no system message') }}"
    with pytest.raises(
        DataError, match=r"a\.jinja, line 2: the chat template refuses the messages: no system message;"
    ):
        ChatTemplate(source, where="a.jinja").render([user("Hi")])
    with pytest.raises(DataError, match=r"line 3: the chat template fails: UndefinedError: 'dict object' has no"):
        ChatTemplate("\n\n{{ messages[0].name.first }}").render([user("Hi")])
    with pytest.raises(DataError, match=r"does not parse: line 1, \"\{% if \": "):
        ChatTemplate("{% if ").render([user("Hi")])


def test_a_value_is_plain_data() -> None:
    class Tool:
        def write(self) -> str:
            return "written"

    with pytest.raises(DataError, match="has no attribute 'write'"):
        ChatTemplate("{{ tool.write() }}").render([user("Hi")], tool=Tool())


def test_templates_of_a_folder() -> None:
    tokenizer = chat_tokenizer()
    settings = tokenizer.settings
    try:
        assert find_chat_template(tokenizer, {}) is None
        settings["chat_template"] = "one"
        assert (
            find_chat_template(tokenizer, {}, where="m").where == "m: the model's chat template (field 'chat_template')"
        )
        assert find_chat_template(tokenizer, {"chat_template.jinja": b"file"}).source == "file"
        files = {"additional_chat_templates/tool_use.jinja": b"tools", "chat_template.jinja": b"file"}
        assert find_chat_template(tokenizer, files, "tool_use").source == "tools"
        with pytest.raises(UsageError, match="no chat template is called 'x'; name one of default, tool_use"):
            find_chat_template(tokenizer, files, "x")
        settings["chat_template"] = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
        assert find_chat_template(tokenizer, {}).source == "a"
        assert find_chat_template(tokenizer, {}, "rag").source == "b"
        settings["chat_template"] = {"rag": "b", "rag2": "c"}
        with pytest.raises(UsageError, match="no chat template is called 'default'; name one of rag, rag2"):
            find_chat_template(tokenizer, {})
        settings["chat_template"] = [{"name": "default"}]
        with pytest.raises(DataError, match=r"field 'chat_template\[0\]' needs a name and a template"):
            find_chat_template(tokenizer, {})
        settings.pop("chat_template")
        with pytest.raises(DataError, match=r"chat_template\.jinja: not UTF-8"):
            find_chat_template(tokenizer, {"chat_template.jinja": b"\xff"})
    finally:
        settings.pop("chat_template", None)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}{{ eos_token }}", encoding="utf-8")
    template = find_format(str(tmp_path / "own.jinja")).with_tokens(chat_tokenizer())
    assert template.render([user("你好")]) == "你好</s>"
    (tmp_path / "own.py").write_text("MARKS = ('<x>',)\nTEMPLATE = '<x>'\n", encoding="utf-8")
    assert find_format(str(tmp_path / "own.py")).marks == ("<x>",)
    (tmp_path / "bad.py").write_text("TEMPLATE = 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="must define TEMPLATE, a text"):
        find_format(str(tmp_path / "bad.py"))
    with pytest.raises(MissingInputError, match="no such file; name a template file, or one of alpaca, chatml"):
        find_format(str(tmp_path / "none.jinja"))
    with pytest.raises(UsageError, match="no variant 'chatlm'; did you mean 'chatml'"):
        find_format("chatlm")


def test_marks_of_a_format_are_what_it_writes() -> None:
    for name in formats():
        chosen = find_format(name)
        text = chosen.with_tokens(chat_tokenizer()).render([user("Hi"), assistant("Yes")], add_generation_prompt=True)
        assert all(mark in text for mark in chosen.marks if "system" not in mark), json.dumps(text)


def test_random_conversations_are_written_as_by_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens, written = role_tokens(chat_tokenizer()), 0
    templates = {name: ChatTemplate(source, tokens) for name, source in SOURCES.items()}
    for seed in range(80):
        messages = drawn_conversation(seed)
        for name, template in templates.items():
            asks = bool(seed % 2)
            try:
                (want,), _ = render_jinja_template(
                    [messages], chat_template=SOURCES[name], add_generation_prompt=asks, **tokens
                )
            except Exception:
                with pytest.raises(DataError):
                    template.render(messages, add_generation_prompt=asks)
                continue
            written += 1
            assert template.render(messages, add_generation_prompt=asks) == want
    assert written >= 1000
