"""A completions server in a thread: a tiny model behind HTTP, with failures on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


class Fake:
    """What a fake server does and what it was asked.

    fail: called with the number of a request; returns None, what to answer in place of an answer (as JSON),
    (status, headers, content) to fail with, `"hang"`, `"trickle"` or `"garbage"`.
    echo, ranks: whether it gives log-probabilities of prompts, and whether their ranks. refuses: parameters (or
    parameters with their values) that it doesn't take. shifted: its log-probabilities of a prompt stand one token
    too far, as llama-cpp-python's do where there is no BOS. template: text around every prompt.
    longest: tokens of a prompt. ollama: it speaks Ollama's language. heeds_special: it heeds `add_special_tokens`, as
    vLLM does; others pass over it. named: id and text that it reports for each token of a prompt.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.echo, self.ranks, self.shifted, self.ollama = True, False, False, False
        self.heeds_special = False
        self.refuses: set[Any] = set()
        self.template, self.longest = "{}", 10_000
        self.named: Callable[[list[int]], list[tuple[str, str]]] = lambda ids: [
            (str(token), tokenizer.decode([token])) for token in ids
        ]
        self.fail: Callable[[int], Any] = lambda number: None
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self._lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            return self._answer(body)

    def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["model"] != "tiny":
            return 404, {"error": "no such model"}
        refused = self.refuses & (body.keys() | set(body.items() if not self.ollama else ()))
        if refused:
            return 400, {"error": f"unknown parameter {refused}"}
        adds = not self.heeds_special or body.get("add_special_tokens", True)
        ids = self.tokenizer(
            self.template.format(body["prompt"]), add_special_tokens=adds, return_tensors="pt"
        ).input_ids
        if ids.shape[1] > self.longest:
            return 400, {"error": f"maximum context length is {self.longest} tokens"}
        if body.get("prompt_logprobs") is not None and self.ranks:
            return 200, self._ranked(ids[0])
        if body.get("echo") or body.get("prompt_logprobs") is not None:
            if not self.echo:
                return 400, {"error": "echo is not supported"}
            return 200, self._echoed(ids[0])
        torch.manual_seed(body.get("seed") or 0)
        drawn = {
            "do_sample": True,
            "temperature": body["temperature"],
            "top_p": body.get("top_p", 1.0),
            "top_k": 0,
        }
        made = self.model.generate(
            ids,
            max_new_tokens=body["max_tokens"],
            **(drawn if body["temperature"] else {"do_sample": False}),
            pad_token_id=1,
        )[0, ids.shape[1] :]
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        ended = int(made[-1]) == self.tokenizer.eos_token_id
        choice: dict[str, Any] = {"text": text, "finish_reason": "stop" if ended else "length"}
        if body.get("logprobs"):
            if not self.echo:
                return 400, {"error": "logprobs are not supported"}
            log_prob = self._log_probs(ids[0])[-1, made[0]]
            choice["logprobs"] = {"tokens": [text], "token_logprobs": [float(log_prob)]}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(made)}
        return 200, {"choices": [choice], "usage": usage, "system_fingerprint": "fake"}

    def _log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(ids[None]).logits[0].float().log_softmax(-1)

    def _echoed(self, ids: torch.Tensor) -> dict[str, Any]:
        """Without the BOS, as llama.cpp does, and with one generated token behind the prompt."""
        log_probs = self._log_probs(ids)
        first = int(ids[0] == self.tokenizer.bos_token_id)
        places = range(first + 1, len(ids))
        told = [None, *(float(log_probs[n - 1 + self.shifted, ids[n]]) for n in places), -0.5]
        tokens = [*(self.tokenizer.decode([token]) for token in ids[first:]), "!"]
        choice = {"text": "".join(tokens), "logprobs": {"tokens": tokens, "token_logprobs": told}}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}

    def _ranked(self, ids: torch.Tensor) -> dict[str, Any]:
        """As vLLM's `prompt_logprobs`: the prompt's own token and the likeliest one."""
        log_probs = self._log_probs(ids)
        places: list[Any] = [None]
        named = self.named(ids.tolist())
        for n, token in enumerate(ids[1:].tolist()):
            own, best = float(log_probs[n, token]), int(log_probs[n].argmax())
            rank = int((log_probs[n] > own).sum()) + 1
            name, text = named[n + 1]
            place = {name: {"logprob": own, "rank": rank, "decoded_token": text}}
            if best != token:
                place[f"best {best}"] = {
                    "logprob": float(log_probs[n, best]),
                    "rank": 1,
                    "decoded_token": "?",
                }
            places.append(place)
        return {"choices": [{"text": "!", "prompt_logprobs": places}], "usage": {"completion_tokens": 1}}

    def ollama_answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Its `/api/generate`; without `raw` it puts prompts into a template."""
        options = dict(body["options"])
        plain = {"max_tokens": options.pop("num_predict"), **options}
        template, self.template = self.template, "{}" if body["raw"] else self.template
        status, values = self.answer({"model": body["model"], "prompt": body["prompt"], **plain})
        self.template = template
        if status != 200:
            return status, values
        usage = values["usage"]
        return 200, {
            "response": values["choices"][0]["text"], "done": True,
            "prompt_eval_count": usage["prompt_tokens"], "eval_count": usage["completion_tokens"],
        }  # fmt: skip


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Serves until the block ends; gives the URL of the API."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.times.append(time.monotonic())
            fake.requests.append(body)
            fake.keys.append(self.headers.get("authorization"))
            failure = fake.fail(len(fake.requests))
            headers: dict[str, str] = {}
            if failure == "hang":
                time.sleep(1.0)
                return
            if failure == "trickle":
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):
                    for _ in range(100):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                        time.sleep(0.05)
                return
            if failure == "garbage":
                status, content = 200, b"<html>"
            elif isinstance(failure, dict | list):
                status, content = 200, json.dumps(failure).encode()
            elif failure is not None:
                status, headers, content = (*failure, b"busy")[:3]
            elif self.path == "/api/generate":
                status, values = fake.ollama_answer(body) if fake.ollama else (404, {})
                content = json.dumps(values).encode()
            else:
                status, values = fake.answer(body)
                if fake.ollama and status == 200:
                    values["system_fingerprint"] = "fp_ollama"
                content = json.dumps(values).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
