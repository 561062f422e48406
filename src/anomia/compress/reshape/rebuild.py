"""Replace a model by one of the same class with another configuration and other tensors.

Existing modules aren't patched: `transformers` builds the smaller model from the configuration as it would read it from
a file, so the model in memory and the one that `from_pretrained` loads are the same by construction. A result that the
configuration can't express is found before anything is changed: a tensor has another shape, or a module behaves
differently.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch, Windows, make_batches
from anomia.compress.reshape.parts import ReshapePlan
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.walk import calibrating, check_walk, make_model_batches
from anomia.errors import RefusedError
from anomia.models.sizes import values_of, whole
from anomia.words import reason_of

if TYPE_CHECKING:
    from anomia.compress.reshape.subject import Subject

_CHECKED_TOKENS = 48
_KEPT_OF_CONFIG = ("_attn_implementation", "_experts_implementation")


class CannotExpressError(Exception):
    """A configuration of this architecture can't describe the result; the message gives the reason."""


def text_config(model: nn.Module) -> Any:
    """Return the part of the configuration that describes the text decoder."""
    config: Any = model.config
    return config.get_text_config()


def width_of(model: nn.Module) -> int:
    """Return the width of the hidden states. Raises `CannotExpressError` if the configuration has no single one."""
    found = {whole(value) for value in values_of(text_config(model), "hidden_size")} - {None}
    if len(found) == 1 and (size := found.pop()) is not None:
        return size
    raise CannotExpressError("its configuration has no hidden size that is one number")


def field(text: Any, name: str) -> Any:
    """Return a field of a configuration; `None` if it has no such field."""
    try:
        return getattr(text, name, None)
    except RuntimeError:  # a per-layer field, in configurations whose layers differ
        return text.to_dict().get(name)


def field_name(text: Any, names: Iterable[str], fits: Callable[[Any], bool]) -> str | None:
    """Return the first of these fields with a fitting value; stored fields are tried before aliases."""
    stored = text.to_dict()
    return next((n for n in sorted(names, key=lambda n: n not in stored) if fits(field(text, n))), None)


def changed_config(model: nn.Module, changes: Mapping[str, Any]) -> Any:
    """Return the model's configuration with changed fields, as `from_pretrained` will read it from the written file.

    Raises `CannotExpressError` if the architecture's checks refuse the values, or if a value isn't read back.
    """
    source: Any = model.config
    config = copy.deepcopy(source)
    text = config.get_text_config()
    if field(text, "tie_word_embeddings") and has_own_head(model):
        changes = {"tie_word_embeddings": False, **changes}
    try:
        for name, value in changes.items():
            setattr(text, name, value)
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            fresh = type(config).from_pretrained(folder)
    except Exception as error:
        # Architectures raise exceptions of many types.
        raise CannotExpressError(
            f"its configuration refuses another {', '.join(changes)} ({reason_of(error)})"
        ) from error
    read = fresh.get_text_config()
    fields = read.to_dict()
    for name, value in changes.items():
        found = fields[name] if name in fields else field(read, name)
        if _plain(found) != _plain(value):
            raise CannotExpressError(f"{name}={value} is read back as {found}")
    for name in _KEPT_OF_CONFIG:
        if getattr(source, name, None) is not None:
            setattr(fresh, name, getattr(source, name))
    fresh._name_or_path = source._name_or_path
    return fresh


def has_own_head(model: nn.Module) -> bool:
    """Whether the output head has values of its own, whatever the configuration says; False if the model has none."""
    whole_model: Any = model
    head, table = whole_model.get_output_embeddings(), whole_model.get_input_embeddings()
    return head is not None and not head.weight.is_meta and head.weight is not table.weight


def fields_of(text: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return some fields of a configuration as plain values."""
    fields = text.to_dict()
    return {name: _plain(fields[name] if name in fields else field(text, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, list | tuple) else value


def skeleton(model: nn.Module, config: Any) -> nn.Module:
    """Build a model of the same class without weights. Raises `CannotExpressError` if it can't be built."""
    try:
        with torch.device("meta"), no_init_weights():
            built: nn.Module = type(model)(copy.deepcopy(config))
    except Exception as error:
        raise CannotExpressError(f"it can't be built: {reason_of(error)}") from error
    return built


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every saved tensor, by name."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def check_shapes(wanted: Mapping[str, torch.Tensor], built: nn.Module) -> None:
    """Raise `CannotExpressError` unless the built model has exactly these tensors and shapes."""
    have = shapes(built)
    for name in sorted(have.keys() | wanted.keys()):
        mine = tuple(wanted[name].shape) if name in wanted else None
        if have.get(name) != mine:
            raise CannotExpressError(
                f"{name} would be {mine or 'missing'}, and the model builds {have.get(name)}"
            )


@torch.no_grad()
def build(model: nn.Module, plan: ReshapePlan) -> nn.Module:
    """Build a model of the same class from the plan's configuration and tensors; the given model is unchanged."""
    old: Any = model
    # On a CPU, uninitialized weights take no memory until they are written; on a GPU they would.
    with no_init_weights(), torch.device("cpu"):
        fresh: Any = type(old)._from_config(plan.config, dtype=old.dtype)
    state = old.state_dict()
    fresh.load_state_dict({n: part.of(state) for n, part in plan.parts.items()}, strict=True, assign=True)
    fresh.tie_weights()
    fresh.to(next(model.parameters()).device)
    for parameter in fresh.parameters():
        parameter.requires_grad_(next(model.parameters()).requires_grad)
    if getattr(old, "generation_config", None) is not None:
        fresh.generation_config = old.generation_config
    fresh.train(model.training)
    built: nn.Module = fresh
    return built


def replace(model: nn.Module, fresh: nn.Module) -> None:
    """Replace the contents of a model by the fresh one's; the object stays the same, so references to it stay valid.

    References to its former modules (`DecoderBlocks`) become stale.
    """
    # Keep attributes that others have set on the model (its device map).
    own = {name: value for name, value in model.__dict__.items() if name not in fresh.__dict__}
    model.__dict__.clear()
    model.__dict__.update({**own, **fresh.__dict__})


def check_batch(windows: Windows, device: torch.device) -> torch.Tensor:
    """Return a few real tokens, [1, S], on the given device."""
    ids = max(windows.token_ids, key=len)[:_CHECKED_TOKENS]
    return torch.tensor([ids], device=device)


@torch.no_grad()
def last_states(model: nn.Module, name: str, ids: torch.Tensor) -> torch.Tensor:
    """Return the output of the last block at the path `name` for `ids` [1, S], as float32 [1, S, H]."""
    found: list[torch.Tensor] = []

    def read(_: nn.Module, __: Any, out: Any) -> None:
        found.append(out if torch.is_tensor(out) else out[0])

    handle = blocks_of(model, name)[-1].register_forward_hook(read)
    try:
        with evaluating(model):
            model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return found[0].float()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode temporarily."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def check_result(fresh: Subject, ids: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Raise `CannotExpressError` unless the built model gives these last states, [1, S, H], up to rounding."""
    try:
        found = fresh.last_states(ids)
    except Exception as error:
        # Modules that don't fit together can raise any exception.
        raise CannotExpressError(f"what is built can't be run: {reason_of(error)}") from error
    dtype = next(fresh.model.parameters()).dtype
    scale = float(expected.abs().max())
    apart = float((found - expected).abs().max())
    limit = {torch.float32: 1e-4, torch.float64: 1e-8}.get(dtype, 5e-2)
    if not apart <= limit * max(scale, 1e-6):
        raise CannotExpressError(f"{what}: states differ by {apart:.3g} where they reach {scale:.3g}")


def check_same_modules(old: nn.Module, new: nn.Module, where: str, allowed: Callable[[str], bool]) -> None:
    """Raise `CannotExpressError` if a plain attribute of a module differs (its window, its kind of attention).

    allowed: whether an attribute of that name may differ.
    """
    mine, theirs = _attributes(old), _attributes(new)
    for name in sorted(mine.keys() | theirs.keys()):
        if not allowed(name.rpartition(".")[2]) and mine.get(name) != theirs.get(name):
            raise CannotExpressError(
                f"{where}.{name} would change from {mine.get(name)} to {theirs.get(name)}"
            )


def _attributes(module: nn.Module) -> dict[str, Any]:
    found = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            plain = value is None or isinstance(value, bool | int | float | str)
            if plain and not name.startswith("_") and name != "training":
                found[f"{path}.{name}"] = value
    return found


def blocks_of(model: nn.Module, name: str) -> list[nn.Module]:
    """Return the blocks at a path; the model may be without weights. Raises `CannotExpressError`."""
    try:
        return list(model.get_submodule(name).children())
    except AttributeError as error:
        raise CannotExpressError(f"there would be no {name}") from error


def count_of(share: float, total: int, method: str, what: str) -> int:
    """Convert a share of `total`, rounded down, or an int to a count. Raises `CompressionError` for none or all."""
    count = int(share) if isinstance(share, int) else int(total * share + 1e-9)
    if not 1 <= count < total:
        least = f"{1 / total:.3f}".rstrip("0") if total > 1 else "a larger model"
        raise RefusedError(
            f"{method}:{share:g} would remove {max(count, 0)} of {total} {what}; "
            f"choose a share from {least} that leaves at least one"
        )
    return count


def granularity(size: int) -> int:
    """Return the step in which a width is cut: packed formats store groups of 32 to 128 inputs."""
    return next((step for step in (128, 64, 32, 16, 8) if size % step == 0 and size >= 8 * step), 1)


@contextmanager
def observing(
    model: nn.Module, decoder: DecoderBlocks, windows: Windows, batch_tokens: int
) -> Iterator[list[Batch]]:
    """Put the dense model in evaluation mode, check that its blocks can be run one by one, and yield the batches."""
    with calibrating(model), torch.no_grad():
        check_walk(model, decoder, make_batches(windows)[0])
        yield make_model_batches(decoder, windows, StatisticNeeds(), batch_tokens=batch_tokens)


def real_rows(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the rows of real tokens, [T, H] float32, from states [B, S, H] or [B·S, H].

    Models with several streams (Gemma 3n) have states [K, B, S, H]: each stream of a token is a row.
    """
    rows = states.reshape(-1, states.shape[-1]).float()
    if batch.real is None:
        return rows
    streams, rest = divmod(len(rows), len(batch.real))
    if rest:
        raise RefusedError(f"{len(rows)} rows for {len(batch.real)} tokens of a padded batch")
    return rows[batch.real.to(rows.device).repeat(streams)]


def finite(values: torch.Tensor, method: str, where: str) -> torch.Tensor:
    """Return the values. Raises `RefusedError` if one is NaN or infinite, since they can't be ranked then."""
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise RefusedError(
            f"{method}: {where}: {broken:,} of {values.numel():,} values are NaN or infinite, so nothing can be chosen "
            "by them; load the model in a wider type (--dtype bfloat16 or float32)"
        )
    return values


def refusal(method: str, model: nn.Module, reason: object) -> RefusedError:
    """Make the error for a result that the architecture can't hold."""
    return RefusedError(
        f"{method} can't be written as an ordinary {type(model).__name__}: {reason}. Nothing was changed; "
        "use a pruning or quantization method for this model"
    )


def finish(
    subject: Subject,
    fresh: Subject,
    method: str,
    changes: Mapping[str, Any],
    removed: Sequence[str],
    *,
    scores: Sequence[Sequence[float]] = (),
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> ReshapeReport:
    """Replace the model by the fresh one and report the changes."""
    before, after = (fields_of(text_config(each.model), changes) for each in (subject, fresh))
    sizes = [each.sizes() for each in (subject, fresh)]
    subject.become(fresh)
    (parameters_before, bytes_before), (parameters_after, bytes_after) = sizes
    notes = list(notes)
    if bytes_after >= bytes_before:
        notes.append(f"the model is not smaller: {bytes_before:,} bytes before, {bytes_after:,} after")
    return ReshapeReport(
        method=method,
        removed=tuple(removed),
        before=before,
        after=after,
        parameters_before=parameters_before,
        parameters_after=parameters_after,
        bytes_before=bytes_before,
        bytes_after=bytes_after,
        scores=tuple(tuple(row) for row in scores),
        notes=tuple(notes),
        details=details or {},
    )
