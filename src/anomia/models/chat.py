"""Chat templates."""

from __future__ import annotations

from typing import Any

from anomia.errors import ModelError


def check_chat(name: str, tokenizer: Any) -> None:
    """Raises ModelError where a tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(f"model: the tokenizer of {name!r} has no chat template; leave out --chat")
