"""SliceGPT: rotate hidden states onto their principal directions and cut the last ones (Ashkboos et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch, Windows
from anomia.compress.calls import record_calls
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Reshaper, Walk
from anomia.compress.reshape.parts import ReshapePlan, given
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Subject
from anomia.compress.visit import AtBlock
from anomia.errors import RefusedError

NAME = "slicegpt"


class Norm(NamedTuple):
    """An RMSNorm over hidden states. offset: added to its weight (Gemma: 1). scale: weight + offset, [H] float64."""

    name: str
    offset: float
    scale: torch.Tensor


class Flow(NamedTuple):
    """How modules use the residual stream, by full name.

    norms: the norms of the residual stream. readers: layers or stacks of experts that read a norm's output, with the
    norm's name. writers: layers that add to the residual stream.
    """

    norms: dict[str, Norm]
    readers: dict[str, str]
    writers: tuple[str, ...]


def slice_states(subject: Subject, share: float, walk: Walk) -> ReshapeReport:
    """Rotate the residual stream in place, fold the norms into the layers that read them, and cut the hidden size.

    The paper rotates each block's input separately and changes the basis along the residual path, which no ordinary
    configuration can hold. Here the whole model has one rotation, [H, H]: the principal directions of the inputs of all
    norms, with each state first scaled to unit mean square, as a block sees it. An RMSNorm over fewer dimensions
    divides by another mean; its weight corrects this. Tied embeddings are written untied, since the last norm is folded
    only into the head.

    share: fraction of the hidden size. If the hidden size was a multiple of 8 to 128, it stays one if the architecture
    allows, otherwise of a smaller step down to 8, for the packed formats.

    Raises `CompressionError` if a norm isn't an RMSNorm before its block (LayerNorm, post-norms), the model with the
    rotation alone doesn't compute the same, or the states are NaN or infinite; nothing was changed.
    """
    model, decoder, windows = subject.model, subject.decoder, walk.windows
    if not 0 < share < 1:
        raise RefusedError(
            f"{NAME}:{share:g} is not a share of the hidden size; give a number between 0 and 1"
        )
    try:
        flow = find_flow(model, decoder, windows)
        size, width = _sizes(model, share)
        # Try an arbitrary rotation first: it shows whether the architecture allows one, before any calibration.
        _rotated(subject, flow, _any_rotation(size), size, windows)
    except CannotExpressError as error:
        raise rebuild.refusal(NAME, model, error) from error
    values, vectors = torch.linalg.eigh(residual_covariance(subject, flow, walk))
    order = values.argsort(descending=True)
    try:
        plan, fresh = _rotated(subject, flow, vectors[:, order], width, windows)
    except CannotExpressError as error:
        raise rebuild.refusal(NAME, model, error) from error
    values = values[order].clamp(min=0)
    notes = [
        "one rotation for the whole model, not one per block as in the paper: blocks change more at the same share"
    ]
    if plan.changes.get("tie_word_embeddings") is False:
        notes.append("the head is stored separately from the embeddings, with which it shared a tensor")
    return rebuild.finish(
        subject,
        fresh,
        NAME,
        plan.changes,
        [f"{size - width} of {size} dimensions of the hidden states"],
        notes=notes,
        details={"variance_kept": float(values[:width].sum() / values.sum())},
    )


def _sizes(model: nn.Module, share: float) -> tuple[int, int]:
    """Return the hidden size and the size to cut to: the largest that the share and the architecture's checks allow."""
    size = rebuild.width_of(model)
    step = rebuild.granularity(size)
    width = -(-math.ceil(size * (1 - share) - 1e-9) // step) * step
    if width >= size:
        raise RefusedError(
            f"{NAME}:{share:g} is less than {step} of the hidden size {size}; choose a larger share"
        )
    best, why = 0, "nothing would be left"
    # Where the checks allow no multiple of the step (nine heads must divide Llama's size), smaller steps are tried.
    for smaller in (step, *(each for each in (64, 32, 16, 8) if each < step)):
        first = -(-math.ceil(size * (1 - share) - 1e-9) // smaller) * smaller
        for width in range(first, max(best, first - 65 * smaller), -smaller):
            try:
                rebuild.changed_config(model, _changes(model, width))
            except CannotExpressError as error:
                why = str(error)
            else:
                best = width
                break
    if not best:
        raise CannotExpressError(why)
    return size, best


def _changes(model: nn.Module, width: int) -> dict[str, Any]:
    text = rebuild.text_config(model)
    changes: dict[str, Any] = {"hidden_size": width}
    heads = rebuild.field(text, "num_attention_heads")
    if rebuild.field(text, "head_dim") is None and isinstance(heads, int):
        changes["head_dim"] = rebuild.width_of(model) // heads
    if rebuild.field(text, "tie_word_embeddings"):
        changes["tie_word_embeddings"] = False
    return changes


def _any_rotation(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rotation: torch.Tensor = torch.linalg.qr(
        torch.randn(size, size, generator=generator, dtype=torch.float64)
    ).Q
    return rotation


# Find the modules that read and write the hidden states.


@torch.no_grad()
def find_flow(model: nn.Module, decoder: DecoderBlocks, windows: Windows) -> Flow:
    """Find the norms of the residual stream, their readers and the writers to it, on a few tokens.

    Raises `CannotExpressError` if a norm isn't an RMSNorm, isn't used where it is defined, or isn't read by a matrix.
    """
    size = rebuild.width_of(model)
    inside = f"{decoder.name}."
    prefix = decoder.name.rpartition(".")[0]
    norms = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_norm = "norm" in type(module).__name__.lower() and not list(module.children())
        outer = weight is None and (name.count(".") <= decoder.name.count(".") + 2)
        if (
            is_norm
            and name.startswith(prefix)
            and (outer or (weight is not None and tuple(weight.shape) == (size,)))
        ):
            norms[name] = _look_at_norm(name, module, size)
    if not any(name.startswith(inside) for name in norms):
        raise CannotExpressError("its blocks have no norm with one weight per hidden dimension")
    ids = rebuild.check_batch(windows, next(model.parameters()).device)
    for name in _own_outputs(model, norms, ids):
        del norms[name]
    readers, ran = _watch_readers(model, norms, ids)
    for name in norms:
        if name not in ran:
            raise CannotExpressError(f"{name} isn't used where it is defined")
    writers = []
    for name, module in model.named_modules():
        if not name.startswith(inside) or name in readers:
            continue
        if isinstance(module, nn.Linear | Conv1D) and _outputs(module) == size:
            writers.append(name)
    return Flow(norms, readers, tuple(writers))


def _outputs(module: Any) -> int:
    return int(module.weight.shape[1 if isinstance(module, Conv1D) else 0])


def _look_at_norm(name: str, module: Any, size: int) -> Norm:
    """Test what a norm computes on states [4, size]. Raises `CannotExpressError` if it isn't an RMSNorm."""
    weight = getattr(module, "weight", None)
    if weight is None or getattr(module, "bias", None) is not None:
        raise CannotExpressError(
            f"{name} ({type(module).__name__}) is not an RMSNorm with a weight and no bias"
        )
    kept = weight.data.clone()
    generator = torch.Generator().manual_seed(0)
    states = 3 + torch.randn(4, size, generator=generator, dtype=torch.float32).to(weight.device)
    try:
        weight.data.zero_()
        offset = round(float((module(states.to(kept.dtype)) * _rms(states) / states).float().mean()), 2)
    except (RuntimeError, TypeError, ValueError) as error:
        # Norms of heads (xLSTM) or with a gate take other inputs.
        raise CannotExpressError(
            f"{name} ({type(module).__name__}) is not an RMSNorm of hidden states"
        ) from error
    finally:
        weight.data.copy_(kept)
    scale = kept.float() + offset
    expected = states / _rms(states) * scale
    found = module(states.to(kept.dtype)).float()
    limit = 1e-3 if kept.dtype == torch.float32 else 5e-2
    if offset not in (0.0, 1.0) or not torch.allclose(found, expected, rtol=limit, atol=limit):
        raise CannotExpressError(
            f"{name} ({type(module).__name__}) is not an RMSNorm: it subtracts the mean or does more"
        )
    return Norm(name, offset, scale.double())


def _rms(states: torch.Tensor) -> torch.Tensor:
    root: torch.Tensor = states.float().square().mean(dim=-1, keepdim=True).sqrt()
    return root


def _own_outputs(model: nn.Module, norms: dict[str, Norm], ids: torch.Tensor) -> set[str]:
    """Return the norms that normalize a sibling layer's output (queries or keys), not the residual stream.

    Outputs are matched by their memory during one pass. ids: [1, S].
    """
    outputs: dict[int, tuple[torch.Tensor, str]] = {}
    found = set()
    handles = []

    def after(name: str) -> Callable[..., None]:
        def read(_: nn.Module, __: Any, out: Any) -> None:
            if torch.is_tensor(out):
                outputs[out.untyped_storage().data_ptr()] = (out, name.rpartition(".")[0])

        return read

    def before(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...]) -> None:
            given = outputs.get(args[0].untyped_storage().data_ptr())
            if given is not None and given[1] == name.rpartition(".")[0]:
                found.add(name)

        return read

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            handles.append(module.register_forward_hook(after(name)))
        elif name in norms:
            handles.append(module.register_forward_pre_hook(before(name)))
    _run_hooked(model, ids, handles)
    return found


def _watch_readers(
    model: nn.Module, norms: dict[str, Norm], ids: torch.Tensor
) -> tuple[dict[str, str], set[str]]:
    """Find which modules read the output of which norm, and which norms ran.

    Outputs are matched by their memory during one pass. ids: [1, S].
    Raises `CannotExpressError` if a norm runs and no matrix reads it.
    """
    outputs: dict[int, tuple[torch.Tensor, str]] = {}
    readers: dict[str, str] = {}
    ran: set[str] = set()
    handles = []

    def after_norm(name: str) -> Callable[..., None]:
        def read(_: nn.Module, __: Any, out: torch.Tensor) -> None:
            # Keep a reference, so that the memory isn't reused for another tensor.
            outputs[out.untyped_storage().data_ptr()] = (out, name)
            ran.add(name)

        return read

    def before(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            if torch.is_tensor(given) and given.untyped_storage().data_ptr() in outputs:
                readers[name] = outputs[given.untyped_storage().data_ptr()][1]

        return read

    for name, module in model.named_modules():
        if name in norms:
            handles.append(module.register_forward_hook(after_norm(name)))
        elif any(p.dim() in (2, 3) for p in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
    _run_hooked(model, ids, handles)
    for name in norms:
        if name in ran and name not in readers.values():
            raise CannotExpressError(
                f"no matrix reads {name}: it normalizes what a layer gives before it is added (a post-norm), "
                "and its weight can't be folded"
            )
    return readers, ran


def _run_hooked(model: nn.Module, ids: torch.Tensor, handles: Sequence[RemovableHandle]) -> None:
    """Run a model on `ids` [1, S] with hooks, and remove them."""
    try:
        with rebuild.evaluating(model):
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def residual_covariance(subject: Subject, flow: Flow, walk: Walk) -> torch.Tensor:
    """Sum x·xᵀ over the inputs of all norms at all real tokens, each x scaled to unit mean square; [H, H] float64.

    The paper computes one per block. The output of the last block (the input of the final norm) has the same weight.
    """
    decoder = subject.decoder
    size = rebuild.width_of(subject.model)
    total = torch.zeros(size, size, dtype=torch.float64)

    def add(batch: Batch, states: torch.Tensor) -> None:
        rows = rebuild.real_rows(states, batch)
        rows = rows / _rms(rows).clamp(min=1e-12)
        total.add_((rows.T @ rows).cpu())

    def look(at: AtBlock) -> dict[str, torch.Tensor]:
        where = f"{at.where}."
        inside = [
            at.block.get_submodule(name.removeprefix(where)) for name in flow.norms if name.startswith(where)
        ]
        for one in at.passes():
            with _hooked(inside, partial(add, one.batch)):
                left = one.run()
            if at.index + 1 == len(decoder.modules):
                add(one.batch, left)
        return {}

    subject.measure(walk, look, about="covariance")
    return rebuild.finite(total, NAME, "the states that enter the norms")


@contextmanager
def _hooked(modules: Sequence[nn.Module], read: Callable[[torch.Tensor], None]) -> Iterator[None]:
    handles = [m.register_forward_pre_hook(lambda _, args: read(args[0])) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _rotated(
    subject: Subject, flow: Flow, rotation: torch.Tensor, width: int, windows: Windows
) -> tuple[ReshapePlan, Subject]:
    """Build the model in the basis of the rotation's first `width` columns.

    If `width` is the full hidden size, the result is compared with the dense model.
    rotation: [H, H] float64, orthogonal.
    """
    model, decoder = subject.model, subject.decoder
    size = len(rotation)
    changes = _changes(model, width)
    if model.config is not rebuild.text_config(model):
        raise CannotExpressError("other modalities write into its hidden states too")
    config = rebuild.changed_config(model, changes)
    built = rebuild.skeleton(model, config)
    device = next(model.parameters()).device
    basis = rotation[:, :width].to(device, torch.float32)  # [H, W]
    state = dict(model.state_dict())
    # An RMSNorm over W dimensions divides by the root of their mean square; the paper's divides by that of all H.
    factor = (size / width) ** 0.5
    rounded: dict[str, float] = {}
    for name, norm in flow.norms.items():
        old = state[f"{name}.weight"]
        value = torch.full((width,), factor - norm.offset, device=old.device).to(old.dtype)
        state[f"{name}.weight"] = value
        # The readers correct the rounding of the factor to the model's type.
        rounded[name] = factor / (float(value[0]) + norm.offset)
    for name, by in flow.readers.items():
        scale = (flow.norms[by].scale * rounded[by]).to(device, torch.float32)
        _change(model, state, name, scale, basis)
    for name in flow.writers:
        _change_writer(state, name, model.get_submodule(name), basis)
    embeddings = _name_of(model, model.get_input_embeddings())
    state[f"{embeddings}.weight"] = _as(
        state[f"{embeddings}.weight"], state[f"{embeddings}.weight"].float() @ basis
    )
    rebuild.check_shapes(state, built)
    plan = ReshapePlan(config, changes, {name: given(value) for name, value in state.items()})
    fresh = subject.build(plan)
    ids = rebuild.check_batch(windows, next(model.parameters()).device)
    _scale_embeddings(model, decoder, fresh.model, basis, ids)
    if width == size:
        rebuild.check_result(
            fresh,
            ids,
            subject.last_states(ids) @ basis,
            "rotated, it doesn't compute the same",
        )
    return plan, fresh


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    for name, module in model.named_modules():
        if module is wanted:
            return str(name)
    raise CannotExpressError("its embeddings aren't a part of it")


def _as(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return value.to(like.dtype).contiguous()


def _change(
    model: nn.Module, state: dict[str, torch.Tensor], name: str, scale: torch.Tensor, basis: torch.Tensor
) -> None:
    """Rotate the weights of a reader: a matrix, or a stack of experts, whose second matrices are writers.

    state: tensors by full name, changed in place. scale: of the norm, [H]. basis: [H, W].
    """
    module: Any = model.get_submodule(name)
    for own, parameter in module.named_parameters(recurse=False):
        key = f"{name}.{own}"
        value = parameter.data.float()
        turned = (
            isinstance(module, Conv1D) if parameter.dim() == 2 else getattr(module, "is_transposed", None)
        )
        if (parameter.dim() == 2 and own != "weight") or turned is None:
            # Among the biases of experts, only those of the second matrices are in the hidden space.
            if "down" in own and parameter.shape[-1] == len(basis):
                state[key] = _as(parameter, value @ basis)
            continue
        matrix = value.transpose(-1, -2) if turned else value  # [..., out, in]
        new = basis.T @ matrix if parameter.dim() == 3 and "down" in own else (matrix * scale) @ basis
        state[key] = _as(parameter, new.transpose(-1, -2) if turned else new)


def _change_writer(state: dict[str, torch.Tensor], name: str, module: Any, basis: torch.Tensor) -> None:
    weight = module.weight.data.float()
    state[f"{name}.weight"] = _as(
        module.weight, weight @ basis if isinstance(module, Conv1D) else basis.T @ weight
    )
    if getattr(module, "bias", None) is not None:
        state[f"{name}.bias"] = _as(module.bias, module.bias.data.float() @ basis)


def _scale_embeddings(
    model: nn.Module, decoder: DecoderBlocks, fresh: nn.Module, basis: torch.Tensor, ids: torch.Tensor
) -> None:
    """Correct for a factor on the embeddings that depends on the hidden size (Gemma: its root).

    basis: [H, W]. ids: [1, S]. Raises `CannotExpressError` if the first block's inputs differ by more than a factor.
    """
    wanted = _first_states(model, decoder, ids) @ basis
    found = _first_states(fresh, decoder, ids)
    factor = float((wanted * found).sum() / found.square().sum())
    if not torch.allclose(found * factor, wanted, rtol=5e-2, atol=5e-2 * float(wanted.abs().max())):
        raise CannotExpressError("what enters its first block isn't the embedding alone")
    if abs(factor - 1) > 1e-2:
        embeddings: Any = fresh
        embeddings.get_input_embeddings().weight.data.mul_(factor)


def _first_states(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> torch.Tensor:
    with rebuild.evaluating(model):
        blocks = tuple(rebuild.blocks_of(model, decoder.name))
        hidden, _ = record_calls(model, decoder._replace(modules=blocks), ids)
    return hidden.float()


# The rotation changes every matrix, so the whole model is in memory.
SLICEGPT = Reshaper(NAME, slice_states, "hidden size", "it is cut in steps", streamed=False)
