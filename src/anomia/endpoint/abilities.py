"""What a completions server can tell: found out by a few small requests before the first item.

Nothing is believed that can be tried: parameters that a server refuses are left out one by one, a chat template
that it puts around prompts is seen by counting tokens, and its log-probabilities of a prompt must agree with those
of the same token when it was generated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anomia.endpoint.client import ATTEMPTS, Client, RequestRefusedError
from anomia.endpoint.dialects import OLLAMA, OLLAMA_FINGERPRINT
from anomia.errors import ModelError

# Servers have defaults of their own for these, which would change what is generated. Each is named in two ways.
PLAIN: dict[str, Any] = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
_CHANGES = {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition penalty"}
_TEXTS = ("The capital of France is Paris", "One, two, three, four, five", "Once upon a time, there was a")
_GREEDY: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
# Between the log-probability of a token as generated and as part of a prompt; bfloat16 differs by hundredths.
_AGREE = 0.25
# Of a prompt of one letter: the letter and a BOS, and room for a space. The shortest chat template has 4.
_PLAIN_TOKENS = 3
_FINGERPRINT_TOKENS = 8


class UntoldError(ModelError):
    """An answer lacks what was asked for, or tells it wrongly."""


class Abilities(NamedTuple):
    """plain: parameters that switch a server's own sampling defaults off; defaults: those that can't be.

    echo: it gives the log-probability of every prompt token. ranks: and their rank among all tokens.
    why_not: its own words where it can't. greedy: how it goes on with fixed prompts, by which it is known again.
    """

    plain: dict[str, Any]
    echo: bool
    ranks: bool
    why_not: str = ""
    defaults: tuple[str, ...] = ()
    greedy: tuple[str, ...] = ()


class EchoedTokens(NamedTuple):
    """Tokens of a prompt as the server tells them; the first has no probability.

    ranks: 1 for the likeliest. margins: log-probability of the likeliest − the token's. None where not told.
    """

    tokens: tuple[str, ...]
    log_probs: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    margins: tuple[float | None, ...]


def find_abilities(client: Client, *, attempts: int = ATTEMPTS) -> Abilities:
    """Tries what a server can do, and learns how it wants to be asked.

    Raises:
        ModelError: it doesn't answer, or puts prompts into a chat template.
    """
    speak(client, attempts=attempts)
    plain = _find_plain(client)
    _refuse_template(client, plain)
    greedy = tuple(
        client.complete(text, **{**_GREEDY, "max_tokens": _FINGERPRINT_TOKENS}, **plain)["text"]
        for text in _TEXTS
    )
    found = Abilities(plain, echo=False, ranks=False, defaults=_defaults(plain), greedy=greedy)
    if client.dialect is OLLAMA:
        return found._replace(why_not="Ollama has none")
    reasons = []
    for ranks in (True, False):
        able = found._replace(echo=True, ranks=ranks)
        try:
            _check_scores(client, able)
        except (RequestRefusedError, UntoldError) as error:
            reasons.append(str(error).removeprefix("endpoint: "))
        else:
            return able
    return found._replace(why_not=reasons[-1])


def speak(client: Client, *, attempts: int = ATTEMPTS) -> None:
    """Learns by one request how a server is asked.

    Raises:
        ModelError: it doesn't answer.
    """
    if client.complete(_TEXTS[0], attempts=attempts, **_GREEDY).get("made_by") == OLLAMA_FINGERPRINT:
        client.dialect = OLLAMA


def score(
    client: Client, text: str, abilities: Abilities, *, unclear_attempts: int = ATTEMPTS
) -> EchoedTokens:
    """Log-probabilities of the tokens of a text.

    `ranks` uses vLLM's `prompt_logprobs`, which tells the rank of each token; else `echo` with `logprobs`, which
    all of the servers share that can do it at all.

    Raises:
        RequestRefusedError, UntoldError: the server doesn't tell them.
        ModelError: it can't be reached.
    """
    asked = {**_GREEDY, "unclear_attempts": unclear_attempts, **abilities.plain}
    if abilities.ranks:
        return _from_prompt_logprobs(client.complete(text, prompt_logprobs=1, **asked).get("prompt_logprobs"))
    return _from_echo(client.complete(text, echo=True, logprobs=1, **asked))


def _find_plain(client: Client) -> dict[str, Any]:
    """The parameters that the server takes: all together, with the other spelling of "no top_k", or one by one."""

    def taken(values: dict[str, Any]) -> bool:
        try:
            client.complete(_TEXTS[0], **_GREEDY, **values)
        except RequestRefusedError:
            return False
        return True

    for values in (PLAIN, {**PLAIN, "top_k": -1}):
        if taken(values):
            return dict(values)
    single = [("top_k", -1), *PLAIN.items()]
    return {name: value for name, value in single if taken({name: value})}


def _defaults(plain: dict[str, Any]) -> tuple[str, ...]:
    """What the server decides by itself, in words."""
    known = plain.keys() | ({"repeat_penalty"} if "repetition_penalty" in plain else set())
    return tuple(words for name, words in _CHANGES.items() if name not in known)


def _refuse_template(client: Client, plain: dict[str, Any]) -> None:
    count = client.complete("a", **_GREEDY, **plain)["usage"].get("prompt_tokens")
    if isinstance(count, int) and count > _PLAIN_TOKENS:
        raise ModelError(
            f"endpoint: {client.url} makes {count} tokens out of a one-letter prompt: it puts prompts into a chat "
            "template, so what it answers can't be compared with base; serve the model without one"
        )


def _check_scores(client: Client, abilities: Abilities) -> None:
    """Sees that the server tells log-probabilities of prompts, and those of the right tokens.

    Raises:
        RequestRefusedError, UntoldError: it doesn't.
    """
    for text in _TEXTS:
        before = score(client, text, abilities, unclear_attempts=2)
        answer = client.complete(text, logprobs=1, unclear_attempts=2, **_GREEDY, **abilities.plain)
        told = answer.get("logprobs")
        chosen = told.get("token_logprobs") if isinstance(told, dict) else None
        after = score(client, text + answer["text"], abilities)
        whole = len(after.tokens) == len(before.tokens) + 1 and after.tokens[:-1] == before.tokens
        if not whole or not isinstance(chosen, list) or not chosen or not isinstance(chosen[0], float | int):
            # The next token is no text of its own here, or its probability isn't told: another text may show it.
            continue
        log_prob = after.log_probs[-1]
        if log_prob is None or abs(log_prob - chosen[0]) > _AGREE:
            raise UntoldError(
                "endpoint: the server's log-probabilities of prompt tokens are not those of the same tokens when "
                f"it generates them ({log_prob} against {chosen[0]})"
            )


def _from_echo(answer: dict[str, Any]) -> EchoedTokens:
    told, usage = answer.get("logprobs"), answer["usage"]
    told = told if isinstance(told, dict) else {}
    tokens, log_probs = told.get("tokens"), told.get("token_logprobs")
    generated = usage.get("completion_tokens")
    if isinstance(tokens, list) and isinstance(log_probs, list) and len(tokens) == len(log_probs):
        # What was generated stands behind the prompt. Counted from the end: some servers leave the BOS out.
        prompt = len(tokens) - (generated if isinstance(generated, int) else 1)
        if prompt > 1 and all(isinstance(value, float | int) for value in log_probs[1:prompt]):
            return EchoedTokens(
                tuple(map(str, tokens[:prompt])),
                (None, *map(float, log_probs[1:prompt])),
                (None,) * prompt,
                (None,) * prompt,
            )
    raise UntoldError("endpoint: the server returns no log-probabilities of prompt tokens")


def _from_prompt_logprobs(told: Any) -> EchoedTokens:
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
        raise UntoldError("endpoint: the server returns no ranks of prompt tokens") from None
    return EchoedTokens(tuple(tokens), tuple(log_probs), tuple(ranks), tuple(margins))
