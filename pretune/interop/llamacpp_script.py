"""Opens a `.gguf` file with llama.cpp, in a process of its own: ids of lines, and greedy texts.

python llamacpp_script.py FILE request.json answer.json
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse


def main(file: str, question: str, reply: str) -> None:
    """Asks llama.cpp's server, which the package starts in this process."""
    import xllamacpp as xl

    request = json.loads(Path(question).read_text(encoding="utf-8"))
    params = xl.CommonParams()
    params.model.path = file
    params.n_ctx = 0
    params.n_predict = request["new_tokens"]
    params.cpuparams.n_threads = 2
    params.embedding = not request["prompts"]
    params.warmup = False
    params.fit_params = False
    server = xl.Server(params)
    address = urlparse(server.listening_address)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port or 80)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each line waits 40 ms

    def post(path: str, body: dict[str, Any]) -> Any:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    lines = [
        post("/tokenize", {"content": line, "add_special": True, "parse_special": False})["tokens"]
        for line in request["lines"]
    ]
    written = []
    for prompt in request["prompts"]:
        body = {"prompt": prompt, "n_predict": request["new_tokens"], "temperature": 0.0, "return_tokens": True}
        answer = post("/completion", {**body, "n_probs": 2, "cache_prompt": False})
        gaps = []
        for token in answer.get("completion_probabilities", []):
            top = token.get("top_logprobs", [])
            gaps.append(top[0]["logprob"] - top[1]["logprob"] if len(top) > 1 else 1e9)
        written.append({"tokens": answer["tokens"], "gaps": gaps})
    version = importlib.metadata.version("xllamacpp")
    Path(reply).write_text(json.dumps({"version": version, "lines": lines, "written": written}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
