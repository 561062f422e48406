"""Token weights from the final loss: how much each token's output of a matrix matters to what the whole model says.

GuidedQuant (Kim et al. 2025, arXiv 2505.07004, section 3) weights the layer-wise error by squared gradients of the end
loss: H = Σ_t (∂ℓ/∂z_t)² x_t x_tᵀ, averaged over the output channels of a group. Here ℓ is the KL divergence of the
compressed model's outputs from base's own, and the group is all matrices that share an input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn
from torch.func import functional_call

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch
from anomia.compress.calls import check_tokens
from anomia.compress.matrices import all_matrices
from anomia.errors import RefusedError

ALIKE = "repaired without guidance: the pruned model's outputs are base's own, so the loss says nothing"
SILENT = "repaired without guidance: the loss doesn't depend on its outputs"
UNEVEN = "repaired without guidance: its outputs aren't one row per token"
FEW = "the loss weighs fewer tokens than it has inputs, so its repair fits chance: use more answers"
# The mean distance of two models' output probabilities, [0, √2], up to which they differ by rounding in float32.
_ROUNDING = 1e-5
_ROWS = 64


class KL(NamedTuple):
    """KL(base ‖ compressed) at some positions, and its gradient.

    nats: of each position, [N] float32. gradient: of the sum with respect to the compressed model's logits, [N, V] in
    their type. apart: the L2 distance of the two models' probabilities, [N] float32.
    """

    nats: torch.Tensor
    gradient: torch.Tensor
    apart: torch.Tensor


@dataclass(slots=True)
class TokenGradients:
    """The L2 norm of the gradient of Σ KL(base ‖ compressed) with respect to each token's output of a matrix.

    norms: by block and name of the matrix in it, for each batch [B·S] float32. Matrices whose outputs aren't one row
    per token (experts) have none. outputs: number of output features, by the same keys.
    nats: mean KL per position before repair. alike: the two models' outputs differ by rounding at most.
    """

    norms: dict[tuple[int, str], list[torch.Tensor]] = field(default_factory=dict)
    outputs: dict[tuple[int, str], int] = field(default_factory=dict)
    nats: float = 0.0
    alike: bool = False


class Guidance(NamedTuple):
    """What the final loss says of one group of matrices with a shared input.

    weights: g_t, for each batch [B·S] float32, with mean 1 over real tokens; None if the loss says nothing, for the
    reason in `note`.
    """

    weights: list[torch.Tensor] | None
    note: str = ""


def kl_divergence(base: torch.Tensor, compressed: torch.Tensor) -> KL:
    """Return KL(base ‖ compressed) = Σ p (ln p − ln q) at each position, and its gradient q − p. Logits: [N, V]."""
    gradient = torch.empty_like(compressed)
    nats, apart = (compressed.new_empty(len(compressed), dtype=torch.float32) for _ in range(2))
    # A few positions at a time: a vocabulary has up to 256,000 tokens.
    for first in range(0, len(compressed), _ROWS):
        rows = slice(first, first + _ROWS)
        log_p, log_q = (each[rows].float().log_softmax(-1) for each in (base, compressed))
        p, difference = log_p.exp(), log_q.exp()
        # A token that base can't say (a logit of −∞) adds nothing.
        nats[rows] = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
        difference -= p
        apart[rows] = difference.norm(dim=-1)
        gradient[rows] = difference
    return KL(nats, gradient, apart)


class Snapshot:
    """The values of all blocks before a change: about as much memory as the blocks take."""

    def __init__(self, decoder: DecoderBlocks) -> None:
        self._decoder = decoder
        tensors = [tensor for _, tensor in _tensors_of(decoder)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        check_room(size, tensors[0].device, "the final loss needs base's blocks next to the pruned ones")
        self.values = {name: tensor.detach().clone() for name, tensor in _tensors_of(decoder)}

    @torch.no_grad()
    def restore(self) -> None:
        """Give the blocks these values back, in place."""
        for name, tensor in _tensors_of(self._decoder):
            tensor.copy_(self.values[name])


def token_gradients(
    model: nn.Module, decoder: DecoderBlocks, base: Snapshot, batches: Sequence[Batch]
) -> TokenGradients:
    """Measure, with one backward pass per batch, what the outputs of each matrix contribute to the final loss.

    The loss is the sum of KL(base ‖ compressed) over the positions of `Batch.predicting`. Only norms are kept.

    Args:
        model: the compressed model.
        decoder: its blocks.
        base: their values in base.
        batches: the tokens, [B, S] each.

    Raises `CompressionError` if outputs or gradients are NaN or infinite, or no gradient arrives.
    """
    found = TokenGradients()
    modules: dict[tuple[int, str], nn.Module] = {}
    for index, block in enumerate(decoder.modules):
        named = dict(block.named_modules())
        for matrix in all_matrices(block, decoder.path(index)):
            if isinstance(getattr(named.get(matrix.name), "weight", None), torch.Tensor):
                modules[index, matrix.name] = named[matrix.name]
                found.outputs[index, matrix.name] = matrix.weight.shape[0]
                found.norms[index, matrix.name] = []
    uneven: set[tuple[int, str]] = set()
    apart: list[torch.Tensor] = []
    nats: list[torch.Tensor] = []
    with _frozen(model):
        for batch in batches:
            ids = batch.input_ids.to(next(model.parameters()).device)
            check_tokens(model, ids)
            norms = {key: ids.new_zeros(ids.numel(), dtype=torch.float32) for key in modules}
            with torch.no_grad():
                wanted = outputs_at(model, ids, batch, base.values)
            with torch.enable_grad(), ExitStack() as stack:
                for key, module in modules.items():
                    read = partial(_read, norms, uneven, key)
                    stack.callback(module.register_forward_hook(read).remove)
                got = outputs_at(model, ids, batch, {})
                loss = kl_divergence(wanted, got.detach())
                del wanted
                _check(loss, model)
                if not got.requires_grad:
                    raise RefusedError(
                        f"no gradient arrives at the blocks of {type(model).__name__}, which guided repair needs; "
                        "leave out guided"
                    )
                got.backward(loss.gradient)  # type: ignore[no-untyped-call]
            nats.append(loss.nats.double().cpu())
            apart.append(loss.apart.double().cpu())
            for key, mine in norms.items():
                if not bool(torch.isfinite(mine).all()):
                    index, name = key
                    raise RefusedError(
                        f"the gradient of the final loss at {decoder.path(index)}.{name} is NaN or infinite; load the "
                        "model in a wider type (--dtype bfloat16 or float32), or leave out guided"
                    )
                found.norms[key].append(mine.cpu())
    for key in uneven:
        del found.norms[key]
    found.nats = float(torch.cat(nats).mean())
    found.alike = float(torch.cat(apart).mean()) <= _ROUNDING
    return found


def guidance(
    gradients: TokenGradients, index: int, names: Sequence[str], batches: Sequence[Batch]
) -> Guidance:
    """Return the weights of a group of matrices of a block, by the mean squared gradient over all their outputs.

    names: of the matrices in block `index`, which have an input in common.
    """
    if gradients.alike:
        return Guidance(None, ALIKE)
    keys = [(index, name) for name in names]
    if any(key not in gradients.norms for key in keys):
        return Guidance(None, UNEVEN)
    features = sum(gradients.outputs[key] for key in keys)
    # Squares of small gradients vanish in float32.
    squares = [
        sum((gradients.norms[key][batch].double().square() for key in keys), torch.zeros(())) / features
        for batch in range(len(batches))
    ]
    real = torch.cat([_real(mine, batch) for mine, batch in zip(squares, batches, strict=True)])
    mean = real.mean()
    if not bool(mean > 0):
        return Guidance(None, SILENT)
    return Guidance([(mine / mean).float() for mine in squares])


def effective_tokens(weights: Sequence[torch.Tensor], batches: Sequence[Batch]) -> float:
    """Return how many equally weighted tokens weigh as much: (Σw)² / Σw² (Kish 1965). weights: [B·S] per batch."""
    real = torch.cat([_real(mine.double(), batch) for mine, batch in zip(weights, batches, strict=True)])
    squares = float(real.square().sum())
    return float(real.sum()) ** 2 / squares if squares else 0.0


def _real(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    return values if batch.real is None else values[batch.real]


def _read(
    norms: Mapping[tuple[int, str], torch.Tensor],
    uneven: set[tuple[int, str]],
    key: tuple[int, str],
    _: nn.Module,
    __: Any,
    out: Any,
) -> None:
    """Add the gradient's norm at a matrix's outputs, [B, S, out], once it arrives."""
    if not torch.is_tensor(out) or out.numel() // out.shape[-1] != len(norms[key]):
        uneven.add(key)
        return

    def take(gradient: torch.Tensor) -> None:
        mine = torch.linalg.vector_norm(gradient.detach().float(), dim=-1).reshape(-1)
        torch.hypot(norms[key], mine, out=norms[key])

    if out.requires_grad:
        out.register_hook(take)  # type: ignore[no-untyped-call]


def outputs_at(
    model: nn.Module, ids: torch.Tensor, batch: Batch, values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Return the logits at the positions of `Batch.predicting`, [N, V].

    ids: [B, S]. values: to use in place of the model's own, by name.
    Raises `CompressionError` for a model that doesn't give one row of logits per token.
    """
    counts = batch.predicting.to(ids.device).view(ids.shape)  # [B, S]
    places = counts.any(dim=0).nonzero().squeeze(1)  # [P]
    given: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = places
    logits: torch.Tensor = functional_call(model, dict(values), (), given).logits
    if logits.shape[1] == ids.shape[1] > len(places):
        logits = logits[:, places]
    if logits.shape[:2] != (len(ids), len(places)):
        raise RefusedError(
            f"{type(model).__name__} doesn't give one row of logits per token, which the final loss needs; leave out "
            "guided and distill"
        )
    return logits[counts[:, places]]


def _check(loss: KL, model: nn.Module) -> None:
    broken = int((~(torch.isfinite(loss.nats) & torch.isfinite(loss.apart))).sum())
    if broken:
        raise RefusedError(
            f"the outputs of {type(model).__name__}, before or after pruning, are NaN or infinite at {broken} of "
            f"{len(loss.nats)} positions, so the final loss can't guide a repair; load the model in a wider type "
            "(--dtype bfloat16 or float32), or leave out guided"
        )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Keep gradients of activations alone: weights need none, and the embeddings begin the graph."""
    asked = [parameter.requires_grad for parameter in model.parameters()]
    embed: Callable[[], nn.Module] = model.get_input_embeddings  # type: ignore[assignment]

    def begin(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
        # A copy, because some models change their embeddings in place.
        return out.detach().requires_grad_(True).clone() if torch.is_grad_enabled() else out

    handle = embed().register_forward_hook(begin)
    try:
        model.requires_grad_(False)
        yield
    finally:
        handle.remove()
        for parameter, was in zip(model.parameters(), asked, strict=True):
            parameter.requires_grad_(was)


def _tensors_of(decoder: DecoderBlocks) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers of all blocks, by their names in the model; shared ones once."""
    seen: set[int] = set()
    for index, block in enumerate(decoder.modules):
        for name, tensor in (*block.named_parameters(), *block.named_buffers()):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{decoder.path(index)}.{name}", tensor


def check_room(size: int, device: torch.device, why: str) -> None:
    """Refuse what takes more memory than is free. size: in bytes. why: what it is for, as a clause."""
    free = _free_bytes(device)
    if size > free:
        raise RefusedError(
            f"{why}: {size / 1e9:.1f} GB more, and {free / 1e9:.1f} GB of memory are free; use a machine with more, or "
            "leave out guided and distill"
        )


def _free_bytes(device: torch.device) -> int:
    return (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else int(psutil.virtual_memory().available)
    )
