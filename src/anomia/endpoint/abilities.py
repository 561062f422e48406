"""Find out what a completions server supports, with a few small requests before the first item.

Everything is tested rather than assumed. Parameters that the server refuses are left out one by one, a chat template
around prompts shows in the token count, and the log probability of a prompt token must agree with the one reported
when the server generated that token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anomia.endpoint.client import ATTEMPTS, Client, RequestRefusedError
from anomia.endpoint.dialects import OLLAMA, OLLAMA_FINGERPRINT
from anomia.errors import ModelError

# Values that switch off servers' sampling defaults, which would change the output. The repetition penalty has two
# names.
PLAIN: dict[str, Any] = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
_CHANGES = {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition penalty"}
_TEXTS = ("The capital of France is Paris", "One, two, three, four, five", "Once upon a time, there was a")
_GREEDY: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
# Tolerance in nats between a token's log probability as generated and as part of a prompt; bfloat16 differs by
# hundredths.
_AGREE = 0.25
# Most tokens of a one-letter prompt without a template: the letter, a BOS and perhaps a space. The shortest chat
# template has 4.
_PLAIN_TOKENS = 3
_FINGERPRINT_TOKENS = 8


class UntoldError(ModelError):
    """The server's answer lacks the requested values, or has wrong ones."""


class Abilities(NamedTuple):
    """What a server supports.

    plain: parameters that switch off its sampling defaults. defaults: names of the ones that can't be switched off.
    echo: whether it gives the log probability of every prompt token. ranks: whether it also gives their ranks.
    why_not: the reason, if it gives no log probabilities. greedy: its continuations of fixed prompts, as a
    fingerprint of the model.
    """

    plain: dict[str, Any]
    echo: bool
    ranks: bool
    why_not: str = ""
    defaults: tuple[str, ...] = ()
    greedy: tuple[str, ...] = ()


class EchoedTokens(NamedTuple):
    """The tokens of a prompt as the server reports them, one entry per token; the first has no probability.

    tokens: the server's ids where it reports ranks, else its texts. log_probs: in nats. ranks: 1 is the most likely
    token. margins: log probability of the most likely token minus that of this token, in nats. None if not reported.
    texts: what the server writes for each token next to its id; empty without ranks.
    """

    tokens: tuple[str, ...]
    log_probs: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    margins: tuple[float | None, ...]
    texts: tuple[str | None, ...] = ()


def find_abilities(client: Client, *, attempts: int = ATTEMPTS) -> Abilities:
    """Test what a server supports, and set the client's dialect.

    Raises:
        ModelError: the server doesn't answer, or puts prompts into a chat template.
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
    """Set the client's dialect, using one request.

    Raises:
        ModelError: the server doesn't answer.
    """
    if client.complete(_TEXTS[0], attempts=attempts, **_GREEDY).get("made_by") == OLLAMA_FINGERPRINT:
        client.dialect = OLLAMA


def score(
    client: Client, text: str, abilities: Abilities, *, unclear_attempts: int = ATTEMPTS
) -> EchoedTokens:
    """Get the log probabilities of a text's tokens.

    If `abilities.ranks` is set, uses vLLM's `prompt_logprobs`, which has the rank of each token; otherwise `echo` with
    `logprobs`, which every server that can score prompts supports.

    Raises:
        RequestRefusedError, UntoldError: the server doesn't report them.
        ModelError: the server can't be reached.
    """
    asked = {**_GREEDY, "unclear_attempts": unclear_attempts, **abilities.plain}
    if abilities.ranks:
        return _from_prompt_logprobs(client.complete(text, prompt_logprobs=1, **asked).get("prompt_logprobs"))
    return _from_echo(client.complete(text, echo=True, logprobs=1, **asked))


def _find_plain(client: Client) -> dict[str, Any]:
    """The parameters of `PLAIN` that the server accepts: all together, with top_k -1 instead of 0, or one by one."""

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
    """Names of the sampling defaults that can't be switched off."""
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
    """Check that the server reports log probabilities of prompt tokens, and for the right tokens.

    Raises:
        RequestRefusedError, UntoldError: it doesn't.
    """
    for text in _TEXTS:
        before = score(client, text, abilities, unclear_attempts=2)
        answer = client.complete(text, logprobs=1, unclear_attempts=2, **_GREEDY, **abilities.plain)
        log_prob_fields = answer.get("logprobs")
        chosen = log_prob_fields.get("token_logprobs") if isinstance(log_prob_fields, dict) else None
        after = score(client, text + answer["text"], abilities)
        whole = len(after.tokens) == len(before.tokens) + 1 and after.tokens[:-1] == before.tokens
        if not whole or not isinstance(chosen, list) or not chosen or not isinstance(chosen[0], float | int):
            # The generated token merges with the text, or its probability isn't reported; another text may work.
            continue
        log_prob = after.log_probs[-1]
        if log_prob is None or abs(log_prob - chosen[0]) > _AGREE:
            raise UntoldError(
                "endpoint: the server's log-probabilities of prompt tokens are not those of the same tokens when "
                f"it generates them ({log_prob} against {chosen[0]})"
            )


def _from_echo(answer: dict[str, Any]) -> EchoedTokens:
    log_prob_fields, usage = answer.get("logprobs"), answer["usage"]
    log_prob_fields = log_prob_fields if isinstance(log_prob_fields, dict) else {}
    tokens, log_probs = log_prob_fields.get("tokens"), log_prob_fields.get("token_logprobs")
    generated = usage.get("completion_tokens")
    if isinstance(tokens, list) and isinstance(log_probs, list) and len(tokens) == len(log_probs):
        # Generated tokens follow the prompt. Count from the end, because some servers leave out the BOS.
        prompt = len(tokens) - (generated if isinstance(generated, int) else 1)
        if prompt > 1 and all(isinstance(value, float | int) for value in log_probs[1:prompt]):
            return EchoedTokens(
                tuple(map(str, tokens[:prompt])),
                (None, *map(float, log_probs[1:prompt])),
                (None,) * prompt,
                (None,) * prompt,
            )
    raise UntoldError("endpoint: the server returns no log-probabilities of prompt tokens")


def _from_prompt_logprobs(log_prob_fields: Any) -> EchoedTokens:
    """Read vLLM's `prompt_logprobs=1`: each position has the prompt's token and, if different, the most likely one."""
    tokens: list[str] = [""]
    log_probs: list[float | None] = [None]
    ranks: list[int | None] = [None]
    margins: list[float | None] = [None]
    texts: list[str | None] = [None]
    try:
        if len(log_prob_fields) < 2:
            raise ValueError
        for place in log_prob_fields[1:]:
            known = {str(token): (int(of["rank"]), float(of["logprob"])) for token, of in place.items()}
            token, (rank, log_prob) = max(known.items(), key=lambda entry: entry[1][0])
            tokens.append(token)
            log_probs.append(log_prob)
            ranks.append(rank)
            margins.append(max(of for _, of in known.values()) - log_prob)
            text = place[token].get("decoded_token")
            texts.append(text if isinstance(text, str) else None)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UntoldError("endpoint: the server returns no ranks of prompt tokens") from None
    return EchoedTokens(tuple(tokens), tuple(log_probs), tuple(ranks), tuple(margins), tuple(texts))
