"""A served model made ready: its server tried, base's tokenizer at hand, and what it can't tell put in words."""

from __future__ import annotations

from anomia.endpoint.abilities import Abilities, find_abilities
from anomia.endpoint.ask import Served
from anomia.endpoint.client import client_from_environment


def reach(url: str, model: str) -> Served:
    """A served model.

    Raises:
        ModelError: the server can't be reached, or has no such model.
        MissingExtraError: the `endpoint` extra is not installed.
    """
    client = client_from_environment(url, model)
    return Served(client, find_abilities(client))


def notes_of(abilities: Abilities) -> list[str]:
    """What about a served model's figures should be known."""
    notes = [
        "it is served: prompts are cut by base's tokenizer and sent as text, samples are the server's own draws, "
        "and beams and the divergence from base can't be asked for"
    ]
    if not abilities.echo:
        notes.append(
            f"choice and ranks are not measured: the server gives no log-probabilities of a prompt ({abilities.why_not}); "
            "vLLM does, and llama-cpp-python with --logits_all true"
        )
    elif not abilities.ranks:
        notes.append("ranks are not measured: the server doesn't tell them (vLLM does, as prompt_logprobs)")
    if not abilities.plain:
        notes.append("the server takes no top_k, min_p or repetition penalty: its own defaults hold")
    return notes
