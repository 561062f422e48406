"""API keys of servers: read only from the environment, and sent only to the hosts that they are for.

ANOMIA_ENDPOINT_KEY     sent to the server; never stored, logged or shown
ANOMIA_ENDPOINT_HOST    the only host that gets this key (default: every endpoint of a study)
OPENAI_API_KEY          used if there is no such key, but only for OpenAI or the host of OPENAI_BASE_URL
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from anomia.errors import ModelError


def key_for(url: str) -> str | None:
    """The key for a server from the environment, or None.

    Raises:
        ModelError: the value can't be a key. The message doesn't repeat it.
    """
    host = urlsplit(url).hostname
    own = os.environ.get("ANOMIA_ENDPOINT_HOST", "").strip()
    if own in ("", host):
        key = _key("ANOMIA_ENDPOINT_KEY")
        if key is not None:
            return key
    # A study file from somebody else may name any server.
    return _key("OPENAI_API_KEY") if _is_openai(url) else None


def _is_openai(url: str) -> bool:
    parts = urlsplit(url)
    own = urlsplit(os.environ.get("OPENAI_BASE_URL", ""))
    official = parts.hostname == "api.openai.com" and parts.scheme == "https"
    return official or (own.hostname is not None and (own.scheme, own.netloc) == (parts.scheme, parts.netloc))


def _key(name: str) -> str | None:
    # Files and secret stores often add a newline to a key.
    key = os.environ.get(name, "").strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ModelError(f"endpoint: {name} contains characters that a key can't have; set it again")
    return key
