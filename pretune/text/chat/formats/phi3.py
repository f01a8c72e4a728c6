"""Phi-3: `<|user|>`, a line break, the message, `<|end|>` and a line break.

Source: Abdin et al. 2024, "Phi-3 technical report" (arXiv 2404.14219).
"""

MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
"""
