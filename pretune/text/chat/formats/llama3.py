"""Llama 3: each message behind a header of its own, and `<|eot_id|>` at its end.

Source: Grattafiori et al. 2024, "The Llama 3 herd of models" (arXiv 2407.21783).
"""

MARKS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
