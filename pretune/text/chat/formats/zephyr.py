"""Zephyr: `<|user|>`, a line break, the message, the end token and a line break.

Source: Tunstall et al. 2023, "Zephyr" (arXiv 2310.16944).
"""

MARKS = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
"""
