"""The request formats of servers: OpenAI's completions, which nearly all support, and Ollama's own API.

Ollama's `/v1/completions` puts every prompt into the model's chat template, with no parameter to prevent it
(ollama#5544); its `/api/generate` with `raw` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Dialect(NamedTuple):
    """How to send a prompt and read the answer.

    address: the request URL, from the API's URL. body: the request body, from model, prompt and parameters by
    OpenAI's names. read: the answer's `text`, `usage`, `made_by` and other fields; it may raise ValueError, KeyError,
    IndexError, TypeError or AttributeError if the answer has another format.
    """

    address: Callable[[str], str]
    body: Callable[[str, str, Mapping[str, Any]], dict[str, Any]]
    read: Callable[[Any], dict[str, Any]]


def _openai_body(model: str, prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, **parameters}


def _read_openai(values: Any) -> dict[str, Any]:
    choice = dict(values["choices"][0])
    return {
        **choice,
        "text": _text(choice["text"]),
        "usage": dict(values.get("usage") or {}),
        "made_by": values.get("system_fingerprint"),
    }


_OLLAMA_NAMES = {"max_tokens": "num_predict"}
# Tokens for a prompt and its answer; without this option, Ollama silently cuts off the start of long prompts.
_OLLAMA_CONTEXT = 4096


def _ollama_body(model: str, prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    options = {_OLLAMA_NAMES.get(name, name): value for name, value in parameters.items()}
    return {
        "model": model,
        "prompt": prompt,
        "raw": True,
        "stream": False,
        "options": {"num_ctx": _OLLAMA_CONTEXT, **options},
    }


def _read_ollama(values: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": values.get("prompt_eval_count"), "completion_tokens": values.get("eval_count")}
    return {"text": _text(values["response"]), "usage": usage, "made_by": OLLAMA_FINGERPRINT}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("the text is not a string")
    return value


OLLAMA_FINGERPRINT = "fp_ollama"
OPENAI = Dialect(lambda url: f"{url}/completions", _openai_body, _read_openai)
OLLAMA = Dialect(lambda url: f"{url.removesuffix('/v1')}/api/generate", _ollama_body, _read_ollama)
