"""The grammar of arm specifications: text such as `wanda:0.5,calibration=balanced+int8` to plain values.

    arm   = step { "+" step } | "endpoint:" URL "#" MODEL     steps are applied from left to right
    step  = method [ ":" amount ] { "," option "=" value }
    amount: a sparsity between 0 and 1 (`0.5`), or a pattern `N:M` (at most N of every M weights stay); of GPTQ and
    AWQ the bits; of methods that drop whole parts the share that goes; of embeddings the type

A `+`, `,` or `%` inside a value (a path, say) is written `%2B`, `%2C`, `%25`. `base` is the arm with no step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from urllib.parse import urlsplit

from anomia.compress.steps import (
    ALLOCATIONS,
    BITS,
    CALIBRATED_QUANTIZATION,
    EMBEDDING_TYPES,
    METHODS,
    NULL_DTYPES,
    ORDERS,
    QUANTIZATION_METHODS,
    RESHAPING_METHODS,
    SOLVERS,
    UNCALIBRATED,
    UPDATES,
    Arm,
    Checkpoint,
    Embeddings,
    Null,
    Pattern,
    Prune,
    Quantize,
    Reshape,
    Served,
    Step,
    Target,
    Update,
    unescape,
)
from anomia.errors import StudyError, nearest

_TEXT = ("calibration", "samples", "tokens", "budget")


def parse_arm(text: str, *, name: str | None = None) -> Arm:
    """Read an arm specification; the canonical text is its name unless one is given.

    >>> parse_arm("wanda:0.50+int8").name
    'wanda:0.5+int8'

    Raises `StudyError`, with the nearest valid word, for anything that isn't a specification.
    """
    if not text.strip():
        raise StudyError("an arm specification is empty; give one such as wanda:0.5, or base")
    if text.strip().startswith("endpoint:"):
        served = _parse_endpoint(text.strip())
        return Arm(name if name is not None else str(served), (served,))
    steps = (
        ()
        if text.strip() == "base"
        else _with_updates([_parse_step(part, text) for part in text.split("+")], text)
    )
    for step in steps[1:]:
        if isinstance(step, Checkpoint):
            raise StudyError(f"arm {text!r}: a checkpoint replaces the model, so it can only come first")
    if len(steps) > 1 and any(isinstance(step, Null) for step in steps):
        raise StudyError(f"arm {text!r}: null is base itself under harmless noise, so it stands alone")
    for number, step in enumerate(steps):
        before = next(
            (each for each in steps[:number] if isinstance(each, Prune | Quantize | Embeddings)), None
        )
        if before is not None and isinstance(step, Reshape):
            raise StudyError(f"arm {text!r}: {step} would undo {before}; drop whole parts first")
        if isinstance(before, Prune) and isinstance(step, Prune) and step.method == "alps":
            raise StudyError(
                f"arm {text!r}: alps chooses its weights anew and would undo {before}; leave one out"
            )
    for step, following in pairwise(steps):
        if isinstance(step, Embeddings) or (
            isinstance(step, Quantize) and not isinstance(following, Embeddings)
        ):
            raise StudyError(f"arm {text!r}: {following} can't follow {step}; quantize in the last step")
    arm = Arm("", steps)
    return Arm(name if name is not None else str(arm), steps)


def _with_updates(parts: list[Step | Update], arm: str) -> tuple[Step, ...]:
    """Steps in which every update belongs to the pruning step before it."""
    steps: list[Step] = []
    for part in parts:
        if not isinstance(part, Update):
            steps.append(part)
            continue
        before = steps[-1] if steps else None
        if not isinstance(before, Prune):
            raise StudyError(
                f"arm {arm!r}: {part} changes weights for the mask of a pruning step right before it, as in wanda:0.5+{part}"
            )
        steps[-1] = replace(before, updates=(*before.updates, part))
    return tuple(steps)


def _parse_step(part: str, arm: str) -> Step | Update:
    head, *options = (piece.strip() for piece in part.split(","))
    method, _, amount = head.partition(":")
    where = f"arm {arm!r}"
    if method not in METHODS:
        if not method:
            raise StudyError(f"{where}: a step has no method; known: {', '.join(sorted(METHODS))}")
        if os.path.exists(arm) or arm.startswith((".", "/", "~")):
            raise StudyError(f"{where}: a folder or a file is an arm as checkpoint:{arm}")
        raise StudyError(f"{where}: unknown method {method!r}; {nearest(method, METHODS)}")
    if method == "endpoint":
        raise StudyError("arm endpoint: it stands alone: what is served can't be changed from here")
    if method in ("checkpoint", "packaged"):
        if not amount or options:
            raise StudyError(
                f"{where}: write {method}:MODEL with a hub id, folder or GGUF file and no options"
                " (a comma in a path is written %2C)"
            )
        return Checkpoint(unescape(amount), packaged=method == "packaged")
    if method == "null":
        return _parse_null(amount, options, where)
    if method == "embeddings":
        if amount not in EMBEDDING_TYPES or options:
            raise StudyError(
                f"{where}: write embeddings:TYPE without options; {nearest(amount, EMBEDDING_TYPES)}"
            )
        return Embeddings(amount)
    if method in UPDATES:
        return _parse_update(method, [amount, *options] if amount else options, where)
    if method in RESHAPING_METHODS:
        return _parse_reshape(method, amount, options, where)
    if method in QUANTIZATION_METHODS:
        return _parse_quantize(method, amount, options, where)
    return _parse_prune(method, amount, options, where)


def _parse_prune(method: str, amount: str, options: list[str], where: str) -> Prune:
    own = {"ria": ("permute",), "wandapp": ("rounds",)}.get(method, ())
    given = _read_options(options, (*_TEXT, "allocation", *own), where)
    if method in UNCALIBRATED and given.keys() - {"allocation"} and given.get("allocation") != "owl":
        raise StudyError(f"{where}: {method} uses no calibration text; leave out {', '.join(sorted(given))}")
    allocation = _one_of(given, "allocation", ALLOCATIONS, where)
    target = _parse_target(method, amount, where)
    if allocation == "owl" and isinstance(target, Pattern):
        raise StudyError(f"{where}: owl gives every block its own sparsity, which {target} can't follow")
    if allocation == "owl" and method == "mwanda":
        raise StudyError(f"{where}: mwanda brings its own allocation; leave out allocation=owl")
    if "permute" in given and not isinstance(target, Pattern):
        raise StudyError(f"{where}: permute is for patterns such as 2:4; a sparsity needs no permutation")
    return Prune(
        method,
        target,
        calibration=given.get("calibration"),
        samples=_positive(given, "samples", where),
        tokens=_positive(given, "tokens", where),
        budget=_positive(given, "budget", where),
        allocation=allocation,
        permute=_yes_or_no(given, "permute", where),
        rounds=_positive(given, "rounds", where),
    )


def _parse_update(method: str, options: list[str], where: str) -> Update:
    given = _read_options(options, ("solver",) if method == "update" else ("cycles",), where)
    return Update(
        method, solver=_one_of(given, "solver", SOLVERS, where), cycles=_positive(given, "cycles", where)
    )


def _parse_reshape(method: str, amount: str, options: list[str], where: str) -> Reshape:
    given = _read_options(options, _TEXT, where)
    return Reshape(
        method,
        _share(amount, f"{where}: {method}", what="share"),
        calibration=given.get("calibration"),
        samples=_positive(given, "samples", where),
        tokens=_positive(given, "tokens", where),
        budget=_positive(given, "budget", where),
    )


def _parse_quantize(method: str, amount: str, options: list[str], where: str) -> Quantize:
    if method not in CALIBRATED_QUANTIZATION:
        given = _read_options([amount, *options] if amount else options, ("group",), where)
        if "group" in given and method in ("nf4", "llm.int8"):
            raise StudyError(f"{where}: {method} takes no group")
        return Quantize(method, group=_positive(given, "group", where))
    bits = int(amount) if amount.isascii() and amount.isdecimal() else 0
    if bits not in BITS:
        raise StudyError(
            f"{where}: write {method}:BITS with {', '.join(map(str, BITS))} bits, as in {method}:4"
        )
    own = ("group", "symmetric", *(("order",) if method == "gptq" else ()))
    given = _read_options(options, (*own, *_TEXT), where)
    return Quantize(
        method,
        group=_positive(given, "group", where),
        bits=bits,
        symmetric=_yes_or_no(given, "symmetric", where),
        order=_one_of(given, "order", ORDERS, where),
        calibration=given.get("calibration"),
        samples=_positive(given, "samples", where),
        tokens=_positive(given, "tokens", where),
        budget=_positive(given, "budget", where),
    )


def as_packaged(arms: Iterable[str]) -> list[str]:
    """Arms, and behind each checkpoint the same as its folder packages it.

    >>> as_packaged(["wanda:0.5", "checkpoint:a"])
    ['wanda:0.5', 'checkpoint:a', 'packaged:a']
    """
    found: dict[str, None] = {}
    for text in arms:
        found[text] = None
        first, *rest = parse_arm(text).steps or (None,)
        if isinstance(first, Checkpoint) and not first.packaged:
            found["+".join(map(str, (replace(first, packaged=True), *rest)))] = None
    return list(found)


def like_base(arm: str) -> str | None:
    """The arm with the weights of one that is asked as packaged, asked as base is; None for other arms.

    >>> like_base("packaged:a"), like_base("wanda:0.5")
    ('checkpoint:a', None)
    """
    head = "packaged:"
    return f"checkpoint:{arm.removeprefix(head)}" if arm.startswith(head) else None


def is_null(name: str) -> bool:
    """Whether an arm is base again under harmless noise, which other arms are read against."""
    return name.startswith("null:")


def arm_of(text: str) -> str:
    """The specification of a compressed model that is named as users name models: what is none is a checkpoint.

    >>> arm_of("me/my-pruned, too"), arm_of("wanda:0.5")
    ('checkpoint:me/my-pruned%2C too', 'wanda:0.5')
    """
    method = text.partition(":")[0].strip()
    return text if method in METHODS else str(Checkpoint(text))


def _parse_null(amount: str, options: list[str], where: str) -> Null:
    if amount.startswith("batch=") and not options:
        return Null(batch=_positive({"batch": amount.removeprefix("batch=")}, "batch", where))
    if amount in NULL_DTYPES and not options:
        return Null(dtype=amount)
    if amount == "int8" and not options:
        return Null(method=amount)
    known = (*NULL_DTYPES, "int8", "batch=4")
    raise StudyError(f"{where}: unknown noise {','.join([amount, *options])!r}; {nearest(amount, known)}")


def _parse_endpoint(text: str) -> Served:
    url, _, model = text.removeprefix("endpoint:").partition("#")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if "@" in url or "?" in url:
        # Not repeated in the message: it may hold a key.
        raise StudyError(
            "arm endpoint: the URL holds a name, a password or a query; a key comes from the environment "
            "(ANOMIA_ENDPOINT_KEY or OPENAI_API_KEY)"
        )
    if not sound or not model.strip() or not url.isprintable() or not url.isascii():
        raise StudyError(
            f"arm {text!r}: write endpoint:URL#MODEL, as in endpoint:http://localhost:8000/v1#my-model"
        )
    return Served(url.rstrip("/"), unescape(model))


def parse_target(text: str) -> Target:
    """Read a sparsity such as `0.5` or a pattern such as `2:4`. Raises `StudyError`."""
    return _parse_target("sparsity", text, f"{text!r}")


def _parse_target(method: str, amount: str, where: str) -> Target:
    if not amount:
        raise StudyError(f"{where}: {method} needs a sparsity or a pattern: {method}:0.5, {method}:2:4")
    keep, colon, group = amount.partition(":")
    if colon:
        if not (keep.isdecimal() and group.isdecimal() and 0 < int(keep) < int(group)):
            raise StudyError(
                f"{where}: {amount!r} is no pattern; write N:M with 0 < N < M, such as 2:4"
                " (at most N of every M weights stay)"
            )
        return Pattern(int(keep), int(group))
    return _share(amount, where, what="sparsity", or_else=" nor a pattern (2:4)")


def _share(amount: str, where: str, *, what: str, or_else: str = "") -> float:
    try:
        share = float(amount)
    except ValueError:
        neither = f"neither a {what} (0.5){or_else}" if or_else else f"no {what}; write one such as 0.25"
        raise StudyError(f"{where}: {amount!r} is {neither}") from None
    if not 0.0 < share < 1.0:
        raise StudyError(f"{where}: {what} must lie between 0 and 1, both excluded, not {amount}")
    return share


def _read_options(pieces: list[str], known: tuple[str, ...], where: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key not in known:
            raise StudyError(f"{where}: unknown option {key!r}; {nearest(key, known)}")
        if not equals or not value:
            raise StudyError(f"{where}: option {key!r} has no value; write {key}=VALUE")
        if key in given:
            raise StudyError(f"{where}: option {key!r} is given twice")
        given[key] = unescape(value)
    return given


def _positive(given: Mapping[str, str], key: str, where: str) -> int | None:
    if key not in given:
        return None
    value = given[key]
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise StudyError(f"{where}: {key} must be a positive whole number, not {value!r}")
    return int(value)


def _one_of(given: Mapping[str, str], key: str, known: tuple[str, ...], where: str) -> str | None:
    value = given.get(key)
    if value is not None and value not in known:
        raise StudyError(f"{where}: unknown {key} {value!r}; {nearest(value, known)}")
    return value


def _yes_or_no(given: Mapping[str, str], key: str, where: str) -> bool | None:
    value = _one_of(given, key, ("yes", "no"), where)
    return None if value is None else value == "yes"
