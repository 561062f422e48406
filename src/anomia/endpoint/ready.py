"""Prepare a served model: test its server, and describe what the server can't report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomia.endpoint.abilities import Abilities, find_abilities
from anomia.endpoint.ask import ServedModel
from anomia.endpoint.client import client_from_environment
from anomia.endpoint.tokens import Counted, offsets
from anomia.errors import ModelError


def reach(url: str, model: str) -> ServedModel:
    """Connect to a served model and test what its server supports.

    Raises:
        ModelError: the server can't be reached, or has no such model.
        MissingExtraError: the `endpoint` extra is not installed.
    """
    client = client_from_environment(url, model)
    return ServedModel(client, find_abilities(client))


def greet(url: str, model: str) -> str | None:
    """Send one small request; return what is wrong with the server, or None.

    Raises:
        ModelError: a key or limit in the environment is invalid.
        MissingExtraError: the `endpoint` extra is not installed.
    """
    with client_from_environment(url, model) as client:
        try:
            client.complete("a", max_tokens=1, temperature=0.0, attempts=1)
        except ModelError as error:
            return str(error)
    return None


def known_by(abilities: Abilities, counted: Mapping[str, Counted]) -> dict[str, Any]:
    """A fingerprint of a served model, stored in the run to check later that it is still the same."""
    reported = {"echo": abilities.echo, "ranks": abilities.ranks, "greedy": list(abilities.greedy)}
    return {**reported, "offsets": offsets(counted)}


def check_same(
    before: Mapping[str, Any], abilities: Abilities, counted: Mapping[str, Counted], *, arm: str
) -> None:
    """Refuse to resume an arm if its address now serves another model, or reports more or less than before.

    Half precision can change a text or two, so at least half of the texts must agree. Token counts are compared only
    if known both times, since runs of earlier versions don't have them.

    Raises:
        ModelError: the model or the server has changed.
    """
    reported = {name: before.get(name) for name in ("echo", "ranks")}
    texts = list(before.get("greedy") or ())
    more = {name: now for name, now in offsets(counted).items() if now is not None}
    known = {name: then for name, then in (before.get("offsets") or {}).items() if then is not None}
    alike = sum(one == other for one, other in zip(texts, abilities.greedy, strict=False))
    if reported != {"echo": abilities.echo, "ranks": abilities.ranks}:
        change = "reports different log-probabilities"
    elif 2 * alike < len(texts):
        change = "continues fixed prompts differently"
    elif any(more[name] != known[name] for name in more.keys() & known.keys()):
        change = "makes a different number of tokens of the same texts"
    else:
        return
    raise ModelError(
        f"endpoint: {arm} now {change} than when this run began, so another model or server answers there now; "
        "serve the original one, or give another --out"
    )


def notes_of(abilities: Abilities) -> list[str]:
    """Caveats for the results of a served model."""
    notes = [
        "it is served: prompts are cut by base's tokenizer and sent as text, samples are the server's own draws, "
        "and beams and the divergence from base can't be asked for"
    ]
    if not abilities.echo:
        notes.append(
            "choice and ranks are not measured: the server gives no log-probabilities of a prompt "
            f"({abilities.why_not}); vLLM and SGLang do, and llama-cpp-python with --logits_all true"
        )
    elif abilities.ranks:
        notes.append("its ranks are the server's own; tokens with equal logits count as ranked above it")
    else:
        notes.append("ranks are not measured: the server doesn't report them (vLLM does, as prompt_logprobs)")
    if abilities.defaults:
        notes.append(
            f"the server can't be told to ignore {', '.join(abilities.defaults)}, so its own defaults apply"
        )
    return notes
