"""The page as one file: its parts joined, data embedded as data, and a policy that lets nothing else run."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from anomia.measure.outcomes import OUTCOMES

STYLES = ("base", "sections", "explorer", "item", "print")
# Each file uses only those before it.
SCRIPTS = (
    "dom", "text", "match", "data", "theme", "tables", "figures", "sections", "probabilities", "prompts", "item",
    "filters", "list", "explorer", "main",
)  # fmt: skip
DATA_ELEMENT = "report-data"
"""The id of the element with the page's content."""
_SURROGATES = re.compile("[\ud800-\udfff]")


def page(
    document: Mapping[str, Any],
    *,
    specs: bytes,
    blocks: Sequence[bytes] = (),
    index: bytes = b"",
    served: bool = False,
) -> str:
    """The whole page.

    Args:
        document: the page's content, plain values, embedded as JSON that no parser takes for markup.
        specs: the figures for Vega, by name and theme, compressed.
        blocks: the items, in groups, compressed; empty if they are served.
        index: all rows for the explorer, compressed.
        served: whether the page may send requests to the server that it came from.
    """
    script, style, vega = _joined("js", SCRIPTS), _joined("css", STYLES) + outcome_colors(), vega_bundle()
    data = [_block(DATA_ELEMENT, "application/json", json_text(document))]
    data.append(_block("vega-code", "application/gzip", _packed(gzip.compress(vega.encode(), 9, mtime=0))))
    data.append(_block("figure-specs", "application/gzip", _packed(specs)))
    if index:
        data.append(_block("item-index", "application/gzip", _packed(index)))
    data += [_block(f"items-{n}", "application/gzip", _packed(block)) for n, block in enumerate(blocks)]
    places = {
        "policy": policy(scripts=(script, vega), style=style, served=served),
        "style": style,
        "data": "\n".join(data),
        "script": script,
    }
    template = _asset("page.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: places[match[1]], template)


def outcome_colors() -> str:
    """The color of each outcome of a verdict, as CSS rules."""
    return "".join(
        f".outcome.{name} {{ color: var(--{meaning.color}); }}\n" for name, meaning in OUTCOMES.items()
    )


def policy(*, scripts: Sequence[str], style: str, served: bool) -> str:
    """A Content-Security-Policy that allows these scripts and this style, and no network but the page's own server."""
    hashes = " ".join(_hash(script) for script in scripts)
    connect = "; connect-src 'self'" if served else ""
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; img-src data:{connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def json_text(values: Any) -> str:
    """ASCII JSON that can't close the element around it."""
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def compressed(values: Any) -> bytes:
    """Gzipped JSON in UTF-8. Lone surrogates, which UTF-8 can't represent, become U+FFFD."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return gzip.compress(_SURROGATES.sub("\ufffd", text).encode(), 9, mtime=0)


@functools.cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script from vl-convert; nothing is downloaded."""
    import vl_convert

    return f"{{{vl_convert.javascript_bundle('globalThis.vegaEmbed = vegaEmbed;')}}}"


def embedded_bytes(data: bytes) -> int:
    """The size in bytes of a compressed block in the page."""
    return len(_block("items-000000", "application/gzip", "")) + 1 + 4 * -(-len(data) // 3)


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _block(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _joined(kind: str, names: Sequence[str]) -> str:
    return "\n" + "\n".join(_asset(f"{kind}/{name}.{kind}") for name in names)


def _asset(path: str) -> str:
    return resources.files("anomia.report.page").joinpath("assets", path).read_text(encoding="utf-8")
