"""A prompt as a conversation, for models that were trained on conversations: the label is the assistant's answer.

The instruction is what the system says; each solved example, and the text, is a question of the user, which is the
pattern up to the label; what stands behind the label is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydantic import PrivateAttr

from pretune.prompts.prompt import Prompt, Rendered, Solved
from pretune.text.chat.quoted import render_quoted
from pretune.text.chat.template import ChatTemplate


class ChatPrompt(Prompt):
    """A prompt that a chat template writes."""

    _template: ChatTemplate = PrivateAttr()
    _marks: tuple[str, ...] = PrivateAttr()

    @classmethod
    def of(cls, prompt: Prompt, template: ChatTemplate, marks: Collection[str]) -> ChatPrompt:
        """The prompt in the form of a template.

        Args:
            marks: the special tokens of the tokenizer, as text: in the texts that are asked about they stay text.
        """
        chat = cls(**prompt.model_dump())
        chat._template, chat._marks = template, tuple(marks)
        return chat

    def render(self, text: str, second: str | None = None, solved: Sequence[Solved] = ()) -> Rendered:
        """The conversation up to the assistant's answer.

        Raises:
            DataError: the template refuses it, or fails.
        """
        messages = [{"role": "system", "content": self.instruction}] if self.instruction else []
        for example in solved:
            question = self._question(example.text, example.second)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": example.word}]
        return self._render([*messages, {"role": "user", "content": self._question(text, second)}])

    def premise(self) -> Rendered:
        """What is asked, without the text, as the user's only question."""
        return self._render([{"role": "user", "content": super().premise().before.strip()}])

    def _question(self, text: str, second: str | None) -> str:
        return self.in_pattern(text, second).before.rstrip()

    def _render(self, messages: Sequence[dict[str, str]]) -> Rendered:
        text, special = render_quoted(self._template, messages, self._marks)
        return Rendered(text, "", special)
