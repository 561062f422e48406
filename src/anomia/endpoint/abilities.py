"""What a completions server can tell: found out by two small requests before the first item."""

from __future__ import annotations

from typing import Any, NamedTuple

from anomia.endpoint.client import ATTEMPTS, Client, RefusedError
from anomia.errors import ModelError

# Servers have defaults of their own for these, which would change what is generated.
PLAIN: dict[str, Any] = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
_TEXT = "The capital of France is Paris"


class Abilities(NamedTuple):
    """plain: parameters that switch a server's own sampling defaults off, empty where it takes none of them.

    echo: it gives the log-probability of every prompt token. ranks: and their rank among all tokens.
    why_not: its own words where it can't.
    """

    plain: dict[str, Any]
    echo: bool
    ranks: bool
    why_not: str = ""


class Scored(NamedTuple):
    """Tokens of a prompt as the server tells them; the first has no probability.

    ranks: 1 for the likeliest. margins: log-probability of the likeliest − the token's. None where not told.
    """

    tokens: tuple[str, ...]
    log_probs: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    margins: tuple[float | None, ...]


def find_abilities(client: Client) -> Abilities:
    """Tries what a server can do.

    Raises:
        ModelError: it doesn't answer at all.
    """
    greedy: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
    try:
        client.complete(_TEXT, **greedy, **PLAIN)
        plain = dict(PLAIN)
    except RefusedError:
        client.complete(_TEXT, **greedy)
        plain = {}
    why_not = "it returns no log-probabilities of prompt tokens"
    for ranks in (True, False):
        try:
            # Some servers fail (status 500) at what they don't do: no need to insist.
            score(client, _TEXT, Abilities(plain, True, ranks), attempts=2)
        except ModelError as error:
            if isinstance(error, RefusedError):
                why_not = str(error).removeprefix("endpoint: ")
            continue
        return Abilities(plain, True, ranks)
    return Abilities(plain, False, False, why_not)


def score(client: Client, text: str, abilities: Abilities, *, attempts: int = ATTEMPTS) -> Scored:
    """Log-probabilities of the tokens of a text.

    `ranks` uses vLLM's `prompt_logprobs`, which tells the rank of each token; else `echo` with `logprobs`, which
    all of the servers share that can do it at all.

    Raises:
        ModelError: the server's answer has none.
    """
    asked = {"max_tokens": 1, "temperature": 0.0, "attempts": attempts, **abilities.plain}
    if abilities.ranks:
        return _from_prompt_logprobs(client.complete(text, prompt_logprobs=1, **asked).get("prompt_logprobs"))
    return _from_echo(client.complete(text, echo=True, logprobs=1, **asked))


def _from_echo(answer: dict[str, Any]) -> Scored:
    told = answer.get("logprobs") or {}
    tokens, log_probs = told.get("tokens") or (), told.get("token_logprobs") or ()
    # What was generated stands behind the prompt. Counted from the end: some servers leave the BOS out.
    prompt = len(tokens) - int(answer["usage"].get("completion_tokens", 1))
    whole = all(isinstance(value, float | int) for value in log_probs[1:prompt])
    if prompt < 2 or len(log_probs) != len(tokens) or not whole:
        raise ModelError("endpoint: the server returns no log-probabilities of prompt tokens")
    return Scored(
        tuple(map(str, tokens[:prompt])),
        tuple(None if value is None else float(value) for value in log_probs[:prompt]),
        (None,) * prompt,
        (None,) * prompt,
    )


def _from_prompt_logprobs(told: Any) -> Scored:
    """With one alternative each place holds the prompt's own token and, where that is another, the likeliest."""
    tokens: list[str] = [""]
    log_probs: list[float | None] = [None]
    ranks: list[int | None] = [None]
    margins: list[float | None] = [None]
    try:
        if len(told) < 2:
            raise ValueError
        for place in told[1:]:
            known = {str(token): (int(of["rank"]), float(of["logprob"])) for token, of in place.items()}
            token, (rank, log_prob) = max(known.items(), key=lambda entry: entry[1][0])
            tokens.append(token)
            log_probs.append(log_prob)
            ranks.append(rank)
            margins.append(max(of for _, of in known.values()) - log_prob)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise ModelError("endpoint: the server returns no ranks of prompt tokens") from None
    return Scored(tuple(tokens), tuple(log_probs), tuple(ranks), tuple(margins))
