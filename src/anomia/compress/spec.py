"""The grammar of arm specifications: parses text such as `wanda:0.5,calibration=balanced+int8` to plain values.

    arm    = step { "+" step } | "endpoint:" URL "#" MODEL     steps are applied from left to right
    step   = method [ ":" amount ] { "," option "=" value }
    amount = a sparsity between 0 and 1 (`0.5`) or a pattern `N:M` (at most N of every M weights stay); for GPTQ and
             AWQ the bits; for methods that drop whole parts the share to drop; for embeddings the format

An update's option that is yes or no means yes without a value: `wanda:0.5+repair,guided`.

A `+`, `,` or `%` inside a value (such as a path) is written `%2B`, `%2C`, `%25`. `base` is the arm with no step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from urllib.parse import urlsplit

from anomia.compress.answers import is_of_answers
from anomia.compress.catalogue import (
    ALLOCATIONS,
    BITS,
    CATALOGUE,
    EMBEDDING_TYPES,
    NULL_DTYPES,
    YES_NO,
    Entry,
    MethodKind,
    positive,
)
from anomia.compress.steps import (
    WHOLE,
    Arm,
    Calibration,
    Checkpoint,
    Embeddings,
    MethodOptions,
    Null,
    Pattern,
    Prune,
    Quantize,
    Reshape,
    Served,
    Step,
    Take,
    Target,
    Update,
    unescape,
)
from anomia.errors import StudyError, nearest

REPAIRS = ("repair", "train", "regrow", "distill")
"""The updates that aim at the unpruned model's outputs."""
_TEXT = ("calibration", "samples", "tokens", "budget")


def parse_arm(text: str, *, name: str | None = None) -> Arm:
    """Parse an arm specification; its name is the canonical text unless one is given.

    >>> parse_arm("wanda:0.50+int8").name
    'wanda:0.5+int8'

    Raises `StudyError`, with the nearest valid word, for an invalid specification.
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
        raise StudyError(
            f"arm {text!r}: null is base itself under harmless noise, so it can't be combined with other steps"
        )
    for number, step in enumerate(steps):
        before = next(
            (each for each in steps[:number] if isinstance(each, Prune | Quantize | Embeddings)), None
        )
        if before is not None and isinstance(step, Reshape):
            raise StudyError(f"arm {text!r}: {step} would undo {before}; drop whole parts first")
        if isinstance(before, Prune) and isinstance(step, Prune) and CATALOGUE[step.method].anew:
            raise StudyError(
                f"arm {text!r}: {step.method} chooses its weights anew and would undo {before}; leave one out"
            )
    for step, following in pairwise(steps):
        if isinstance(step, Embeddings) or (
            isinstance(step, Quantize) and not isinstance(following, Embeddings)
        ):
            raise StudyError(f"arm {text!r}: {following} can't follow {step}; quantize in the last step")
    arm = Arm("", steps)
    return Arm(name if name is not None else str(arm), steps)


def _with_updates(parts: list[Step | Update], arm: str) -> tuple[Step, ...]:
    """Attach every update to the pruning step before it."""
    steps: list[Step] = []
    for part in parts:
        if not isinstance(part, Update):
            steps.append(part)
            continue
        before = steps[-1] if steps else None
        if not isinstance(before, Prune):
            raise StudyError(
                f"arm {arm!r}: {part} changes weights for the mask of a pruning step right before it, as in "
                f"wanda:0.5+{part}"
            )
        if before.updates and before.updates[-1].method in WHOLE and part.method not in WHOLE:
            raise StudyError(
                f"arm {arm!r}: {before.updates[-1].method} changes all blocks at once, so {part} can't follow it; "
                f"write {part} before it"
            )
        if part.method == "regrow" and before.updates:
            raise StudyError(
                f"arm {arm!r}: regrow swaps weights as pruning left them, so {before.updates[-1]} can't come before "
                "it; repair the result in a second call"
            )
        steps[-1] = replace(before, updates=(*before.updates, part))
    for step in steps:
        if isinstance(step, Take) and not step.updates:
            raise StudyError(
                f"arm {arm!r}: {step} only takes what was pruned; add what is done with it, as in {step}+repair, or "
                f"compare the model itself as checkpoint:{step.model}"
            )
    return tuple(steps)


def _parse_step(part: str, arm: str) -> Step | Update:
    head, *options = (piece.strip() for piece in part.split(","))
    method, _, amount = head.partition(":")
    where = f"arm {arm!r}"
    if method not in CATALOGUE:
        if not method:
            raise StudyError(f"{where}: a step has no method; known: {', '.join(sorted(CATALOGUE))}")
        if os.path.exists(arm) or arm.startswith((".", "/", "~")):
            raise StudyError(f"{where}: a folder or a file is an arm as checkpoint:{arm}")
        raise StudyError(f"{where}: unknown method {method!r}; {nearest(method, CATALOGUE)}")
    entry = CATALOGUE[method]
    return _PARSERS[entry.kind](entry, amount, options, where)


def _parse_checkpoint(entry: Entry, amount: str, options: list[str], where: str) -> Checkpoint:
    if not amount or options:
        raise StudyError(
            f"{where}: write {entry.name}:MODEL with a hub id, folder or GGUF file and no options"
            " (a comma in a path is written %2C)"
        )
    return Checkpoint(unescape(amount), packaged=entry.kind is MethodKind.PACKAGED)


def _parse_embeddings(entry: Entry, amount: str, options: list[str], where: str) -> Embeddings:
    if amount not in EMBEDDING_TYPES or options:
        raise StudyError(
            f"{where}: write {entry.name}:TYPE without options; {nearest(amount, EMBEDDING_TYPES)}"
        )
    return Embeddings(amount)


def _parse_served(*_: object) -> Step:
    raise StudyError(
        "arm endpoint: it can't be combined with other steps: what is served can't be changed from here"
    )


def _parse_prune(entry: Entry, amount: str, options: list[str], where: str) -> Prune:
    given = _read_options(options, (*_TEXT, "allocation", *_own(entry)), where)
    owl = given.get("allocation") == "owl"
    if not entry.calibrated and given.keys() - {"allocation"} and not owl:
        raise StudyError(
            f"{where}: {entry.name} uses no calibration text; leave out {', '.join(sorted(given))}"
        )
    allocation = _one_of(given, "allocation", ALLOCATIONS, where)
    target = _parse_target(entry.name, amount, where)
    if owl and isinstance(target, Pattern):
        raise StudyError(f"{where}: owl gives every block its own sparsity, which {target} can't follow")
    if owl and entry.allocates:
        raise StudyError(f"{where}: {entry.name} brings its own allocation; leave out allocation=owl")
    for option in entry.options:
        if option.pattern_only and option.name in given and not isinstance(target, Pattern):
            raise StudyError(f"{where}: {option.name} is for patterns such as 2:4, not for a plain sparsity")
    own = _options(entry, given, where)
    return Prune(entry.name, target, _calibration(given, where), allocation, options=own)


def _parse_take(entry: Entry, amount: str, options: list[str], where: str) -> Prune:
    if not amount:
        raise StudyError(
            f"{where}: write {entry.name}:MODEL with a hub id or folder (a comma in a path is written %2C)"
        )
    given = _read_options(options, _TEXT, where)
    return Take(entry.name, 0.0, _calibration(given, where), model=unescape(amount))


def _parse_update(entry: Entry, amount: str, options: list[str], where: str) -> Update:
    given = _read_options(
        [amount, *options] if amount else options, _own(entry), where, alone=_yes_or_no(entry)
    )
    return Update(entry.name, options=_options(entry, given, where))


def _parse_reshape(entry: Entry, amount: str, options: list[str], where: str) -> Reshape:
    given = _read_options(options, (*_TEXT, *_own(entry)), where)
    share = _share(amount, f"{where}: {entry.name}", what="share")
    return Reshape(entry.name, share, _calibration(given, where), options=_options(entry, given, where))


def _parse_round(entry: Entry, amount: str, options: list[str], where: str) -> Quantize:
    given = _read_options([amount, *options] if amount else options, _own(entry), where)
    return Quantize(entry.name, options=_options(entry, given, where))


def _parse_quantize(entry: Entry, amount: str, options: list[str], where: str) -> Quantize:
    bits = int(amount) if amount.isascii() and amount.isdecimal() else 0
    if bits not in BITS:
        raise StudyError(
            f"{where}: write {entry.name}:BITS with {', '.join(map(str, BITS))} bits, as in {entry.name}:4"
        )
    given = _read_options(options, (*_own(entry), *_TEXT), where)
    own = _options(entry, given, where)
    return Quantize(entry.name, bits, _calibration(given, where), options=own)


def _yes_or_no(entry: Entry) -> tuple[str, ...]:
    return tuple(option.name for option in entry.options if option.choices == YES_NO)


def _own(entry: Entry) -> tuple[str, ...]:
    return tuple(option.name for option in entry.options)


def _options(entry: Entry, given: Mapping[str, str], where: str) -> MethodOptions:
    """Return the method's own options among the given ones."""
    return tuple(
        (option.name, option.read(given[option.name], where))
        for option in entry.options
        if option.name in given
    )


def _calibration(given: Mapping[str, str], where: str) -> Calibration:
    numbers = {name: _positive(given, name, where) for name in _TEXT if name != "calibration"}
    return Calibration(given.get("calibration"), **numbers)


def as_packaged(arms: Iterable[str]) -> list[str]:
    """Return the arms, each checkpoint followed by the same model as its folder packages it.

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
    """Return, for a `packaged:` arm, the arm with the same weights that is asked exactly as base is; else None.

    >>> like_base("packaged:a"), like_base("wanda:0.5")
    ('checkpoint:a', None)
    """
    head = "packaged:"
    return f"checkpoint:{arm.removeprefix(head)}" if arm.startswith(head) else None


def unrepaired(arm: str, arms: Sequence[str]) -> str | None:
    """Return which of the arms is this one without its repair, None if none is or the arm repairs nothing.

    The same pruning with other calibration text counts if none has the same.

    >>> unrepaired("wanda:0.5,calibration=answers+repair", ["sparsegpt:0.5", "wanda:0.5"])
    'wanda:0.5'
    >>> unrepaired("taken:a+repair", ["checkpoint:a"]), unrepaired("wanda:0.5+update", ["wanda:0.5"])
    ('checkpoint:a', None)
    """
    if not _repairs(arm):
        return None
    steps = _steps_of(arm)
    wanted = [_without_repair(step) for step in steps]
    others = {name: list(_steps_of(name)) for name in arms if not _repairs(name)}
    exact = [name for name, found in others.items() if found == wanted]
    alike = [name for name, found in others.items() if [*map(_anywhere, found)] == [*map(_anywhere, wanted)]]
    return next(iter([*exact, *alike]), None)


def uncalibrated(arm: str, arms: Sequence[str]) -> str | None:
    """Return which of the arms is this one with other calibration text, None unless this one has base's answers.

    >>> uncalibrated("sparsegpt:0.5,calibration=answers", ["wanda:0.5", "sparsegpt:0.5"])
    'sparsegpt:0.5'
    """
    wanted = [*map(_anywhere, _steps_of(arm))]
    if _repairs(arm) or not _on_answers(arm):
        return None
    return next(
        (name for name in arms if not _on_answers(name) and [*map(_anywhere, _steps_of(name))] == wanted),
        None,
    )


def _on_answers(arm: str) -> bool:
    sources = [
        step.calibration.source for step in _steps_of(arm) if isinstance(step, Prune | Quantize | Reshape)
    ]
    return any(is_of_answers(source) for source in sources if source is not None)


def _repairs(arm: str) -> bool:
    return any(
        isinstance(step, Prune) and any(u.method in REPAIRS for u in step.updates) for step in _steps_of(arm)
    )


def _steps_of(arm: str) -> tuple[Step, ...]:
    """The steps of an arm; none for the name of an arm of an imported run."""
    try:
        return parse_arm(arm).steps
    except StudyError:
        return ()


def _without_repair(step: Step) -> Step:
    if not isinstance(step, Prune):
        return step
    rest = tuple(update for update in step.updates if update.method not in REPAIRS)
    return Checkpoint(step.model) if isinstance(step, Take) and not rest else replace(step, updates=rest)


def _anywhere(step: Step) -> Step:
    """The step with no calibration text of its own."""
    return replace(step, calibration=Calibration()) if isinstance(step, Prune | Quantize | Reshape) else step


def is_null(name: str) -> bool:
    """Whether an arm is base under harmless noise, the reference for other arms."""
    return name.startswith("null:")


def arm_of(text: str) -> str:
    """Return the specification of a compressed model; anything that doesn't start with a method is a checkpoint.

    >>> arm_of("me/my-pruned, too"), arm_of("wanda:0.5")
    ('checkpoint:me/my-pruned%2C too', 'wanda:0.5')
    """
    method = text.partition(":")[0].strip()
    return text if method in CATALOGUE else str(Checkpoint(text))


def _parse_null(entry: Entry, amount: str, options: list[str], where: str) -> Null:
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
        # Not quoted in the message: it may contain a key.
        raise StudyError(
            "arm endpoint: the URL holds a name, a password or a query; a key comes from the environment "
            "(ANOMIA_ENDPOINT_KEY or OPENAI_API_KEY)"
        )
    if not sound or not model.strip() or not url.isprintable() or not url.isascii():
        raise StudyError(
            f"arm {text!r}: write endpoint:URL#MODEL, as in endpoint:http://localhost:8000/v1#my-model"
        )
    return Served(url.rstrip("/"), unescape(model))


def _parse_target(method: str, amount: str, where: str) -> Target:
    if not amount:
        raise StudyError(f"{where}: {method} needs a sparsity or a pattern: {method}:0.5, {method}:2:4")
    keep, colon, group = amount.partition(":")
    if colon:
        if not (keep.isdecimal() and group.isdecimal() and 0 < int(keep) < int(group)):
            raise StudyError(
                f"{where}: {amount!r} is not a pattern; write N:M with 0 < N < M, such as 2:4"
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


def _read_options(
    pieces: list[str], known: tuple[str, ...], where: str, *, alone: tuple[str, ...] = ()
) -> dict[str, str]:
    """Read `name=value` pieces. alone: options that mean yes without a value."""
    given: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key not in known and not known:
            raise StudyError(f"{where}: {piece!r} is an option, and this method takes none")
        if key not in known:
            raise StudyError(f"{where}: unknown option {key!r}; {nearest(key, known)}")
        if not equals and key in alone:
            value = equals = "yes"
        if not equals or not value:
            raise StudyError(f"{where}: option {key!r} has no value; write {key}=VALUE")
        if key in given:
            raise StudyError(f"{where}: option {key!r} is given twice")
        given[key] = unescape(value)
    return given


def _positive(given: Mapping[str, str], key: str, where: str) -> int | None:
    return positive(given[key], key, where) if key in given else None


def _one_of(given: Mapping[str, str], key: str, known: tuple[str, ...], where: str) -> str | None:
    value = given.get(key)
    if value is not None and value not in known:
        raise StudyError(f"{where}: unknown {key} {value!r}; {nearest(value, known)}")
    return value


_PARSERS: Mapping[MethodKind, Callable[[Entry, str, list[str], str], Step | Update]] = {
    MethodKind.PRUNE: _parse_prune,
    MethodKind.TAKE: _parse_take,
    MethodKind.UPDATE: _parse_update,
    MethodKind.RESHAPE: _parse_reshape,
    MethodKind.ROUND: _parse_round,
    MethodKind.QUANTIZE: _parse_quantize,
    MethodKind.EMBEDDINGS: _parse_embeddings,
    MethodKind.CHECKPOINT: _parse_checkpoint,
    MethodKind.PACKAGED: _parse_checkpoint,
    MethodKind.NULL: _parse_null,
    MethodKind.SERVED: _parse_served,
}
