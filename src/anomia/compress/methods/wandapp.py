"""Wanda++: Wanda's score plus the gradient of the block's output, and a regional optimizer (Yang et al. 2025)."""

from __future__ import annotations

import copy
import math
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from anomia.compress.calibration import Batch
from anomia.compress.calls import Call, run_block
from anomia.compress.matrices import WeightMatrix, all_matrices, layer_of
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.methods.zeros import zero, zero_all
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import InputStatistic, StatisticNeeds, observe
from anomia.compress.steps import Prune, Target
from anomia.errors import RefusedError

# The paper's settings of the regional optimizer: windows per round and learning rate.
WINDOWS = 32
RATE = 3e-7
# ‖X‖ grows with the root of the number of tokens and G doesn't, so an α belongs to a size of text: the paper's 128
# windows of 2048.
TOKENS = 128 * 2048


def wandapp_cut(
    weight: torch.Tensor, norms: torch.Tensor, gradient: torch.Tensor, target: Target, alpha: float
) -> Chosen:
    """Choose the lowest `int(in × sparsity)` scores (α·G + ‖X‖₂)·|W| of every output row, or of every M inputs.

    weight, gradient: [out, in]; norms: [in], the L2 norm of each input over all tokens.
    Source: Yang et al. (2025), the regional gradient score of Section 4.1, with α = 100.
    """
    return cut(lifted(weight.abs().float()) * lifted(alpha * gradient + norms), target, weight=weight)


UNCHANGED = "rounds changed no kept weight: its steps are smaller than what the model's type can tell apart"


@torch.no_grad()
def wandapp_block(work: BlockWork) -> list[MatrixReport]:
    """Prune every matrix, [out, in], of a block that calibration tokens reached, in place.

    The step gives the number of optimizer rounds.
    """
    step, target = work.step, work.target
    assert isinstance(step, Prune)
    assert target is not None
    assert work.hidden is not None
    matrices = [matrix for group in work.groups for matrix in group.matrices]
    if not matrices:
        return []
    gradients = regional_gradients(
        work.block, work.batches, work.hidden, work.calls, matrices, where=work.where
    )
    unchanged: set[str] = set()
    rounds, alpha = step.option("rounds"), float(step.option("alpha"))
    if rounds:
        trained = optimize_region(work, gradients, target, rounds, alpha)
        for matrix in matrices:
            before = matrix.weight.clone()
            matrix.weight.copy_(trained[matrix.name])
            if bool(((matrix.weight == before) | (trained[matrix.name] == 0)).all()):
                unchanged.add(matrix.name)
    reports: list[MatrixReport] = []
    for group in work.groups:
        assert group.statistic is not None
        norms = _norms(group.statistic)
        if rounds:
            cuts = [Chosen(trained[m.name] == 0) for m in group.matrices]
        else:
            cuts = [wandapp_cut(m.weight, norms, gradients[m.name], target, alpha) for m in group.matrices]
        reports += [
            report._replace(note=UNCHANGED) if report.name in unchanged else report
            for report in zero_all(group.matrices, cuts, group.statistic)
        ]
    return reports


def regional_gradients(
    block: nn.Module,
    batches: Sequence[Batch],
    hidden: Callable[[int], torch.Tensor],
    calls: Sequence[Call],
    matrices: Sequence[WeightMatrix],
    *,
    where: str = "the block",
) -> dict[str, torch.Tensor]:
    """Return G of each matrix by name, [out, in] float32: the RMS over windows of the gradient of ‖f(X)‖₂.

    f(X) is the block's output for a window; padding is ignored. Works on a float32 copy of the block.

    hidden(i): the block's input states in batch i, [B, S, H]. calls: one per batch.
    Source: Yang et al. (2025), Section 4.1.
    Raises `CompressionError` if a gradient is NaN or infinite.
    """
    twin, weights = _float_copy(block, [matrix.name for matrix in matrices], where)
    layers = {name: layer for name in weights if (layer := layer_of(twin, name)) is not None}
    squares = {name: torch.zeros(weight.shape, device=weight.device) for name, weight in weights.items()}
    parameters = [p for p in twin.parameters() if p.dim() >= 2]
    windows = 0
    for index, batch in enumerate(batches):
        if calls[index].skipped:
            continue
        rows, tokens = batch.input_ids.shape
        if rows == tokens > 1:
            _check_order(twin, hidden(index).float(), as_float(calls[index]), where)
        with torch.enable_grad(), _recording(layers) as seen:
            out = run_block(twin, hidden(index).float(), as_float(calls[index]))
            norms = [window.norm() for window in _real(out, batch, where)]
            shape = batch.input_ids.shape
            shares = len(layers) == len(weights) and all(
                len(uses) == 1 and uses[0][0].shape[:-1] in (shape, (shape.numel(),))
                for uses in seen.values()
            )
            if shares and len(seen) == len(layers):
                _add_from_outputs(squares, seen, norms)
            else:
                _add_one_by_one(squares, weights, parameters, norms)
        windows += len(norms)
    means = {name: (total / max(windows, 1)).sqrt() for name, total in squares.items()}
    for name, mean in means.items():
        if not bool(torch.isfinite(mean).all()):
            raise RefusedError(
                f"{where}.{name}: the gradient of the block's output is NaN or infinite, so no weight can be scored; "
                "the model is damaged, or its activations are too large"
            )
    return means


def _add_from_outputs(
    squares: dict[str, torch.Tensor],
    seen: Mapping[str, list[tuple[torch.Tensor, torch.Tensor]]],
    norms: Sequence[torch.Tensor],
) -> None:
    """Add every window's squared gradient, from one backward pass: the windows of a batch don't mix.

    squares: sums by matrix name, [out, in], changed in place. seen: each layer's input [..., in] and output [..., out].
    norms: a scalar per window.
    """
    # A layer that only selects (positions to attend to, say) has no gradient.
    seen = {name: uses for name, uses in seen.items() if uses[0][1].requires_grad}
    outputs = [uses[0][1] for uses in seen.values()]
    pushed = torch.autograd.grad(torch.stack(list(norms)).sum(), outputs, allow_unused=True)
    for (name, uses), slope in zip(seen.items(), pushed, strict=True):
        if slope is None:
            continue
        inputs = uses[0][0].reshape(len(norms), -1, uses[0][0].shape[-1])  # [B, S, in]
        for x, y in zip(inputs, slope.reshape(len(norms), -1, slope.shape[-1]), strict=True):
            squares[name] += (y.T @ x).square_()


def _add_one_by_one(
    squares: dict[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    parameters: Sequence[nn.Parameter],
    norms: Sequence[torch.Tensor],
) -> None:
    """Add every window's squared gradient, with one backward pass per window: experts mix the tokens of windows.

    squares: sums by matrix name, [out, in], changed in place. weights: the same matrices, views of `parameters` (such
    as one expert's of a stack [E, out, in]). norms: a scalar per window.
    """
    for position, norm in enumerate(norms):
        more = position + 1 < len(norms)
        found = torch.autograd.grad(norm, list(parameters), allow_unused=True, retain_graph=more)
        by_memory = {
            p.untyped_storage().data_ptr(): (p, g)
            for p, g in zip(parameters, found, strict=True)
            if g is not None
        }
        for name, weight in weights.items():
            pair = by_memory.get(weight.untyped_storage().data_ptr())
            if pair is not None:
                parameter, gradient = pair
                offset = int(weight.storage_offset()) - int(parameter.storage_offset())
                flat = gradient.contiguous().reshape(-1)
                squares[name] += torch.as_strided(flat, tuple(weight.shape), weight.stride(), offset).square()


def optimize_region(
    work: BlockWork, gradients: Mapping[str, torch.Tensor], target: Target, rounds: int, alpha: float
) -> dict[str, torch.Tensor]:
    """Run the regional optimizer: each round prunes, then trains the block's output towards the dense block's.

    A round prunes by the score with the inputs of 32 windows in the student block, then takes one step of RMSprop
    (learning rate 3e-7) on the squared error of each of their batches. Pruned weights may come back until the next
    pruning. Returns the weights of the last pruning by name, [out, in] float32, zero where pruned.

    gradients: by matrix name, [out, in] each.
    Source: Yang et al. (2025), Algorithm 1, with one step per batch of windows instead of one per window.
    """
    assert work.hidden is not None
    names = [matrix.name for group in work.groups for matrix in group.matrices]
    dense, _ = _float_copy(work.block, names, work.where)
    student, weights = _float_copy(work.block, names, work.where)
    memory = {weight.untyped_storage().data_ptr() for weight in weights.values()}
    parameters = [p for p in student.parameters() if p.untyped_storage().data_ptr() in memory]
    optimizer = torch.optim.RMSprop(parameters, lr=RATE)
    everything = list(range(len(work.batches)))
    for number in range(rounds):
        generator = torch.Generator().manual_seed(number)
        chosen: list[int] = []
        for index in torch.randperm(len(everything), generator=generator).tolist():
            if sum(len(work.batches[i].input_ids) for i in chosen) < WINDOWS:
                chosen.append(index)
        _prune_student(work, student, weights, gradients, target, alpha, chosen)
        for index in chosen:
            states, call = work.hidden(index).float(), as_float(work.calls[index])
            goal = run_block(dense, states, call)
            with torch.enable_grad():
                optimizer.zero_grad(set_to_none=True)
                out = run_block(student, states, call)
                batch = work.batches[index]
                pairs = zip(_real(out, batch, work.where), _real(goal, batch, work.where), strict=True)
                loss = torch.stack([(mine - theirs).square().sum() for mine, theirs in pairs]).sum()
                loss.backward()  # type: ignore[no-untyped-call]
            if not bool(torch.isfinite(loss)):
                raise RefusedError(
                    f"{work.where}: the regional optimizer's error is NaN or infinite; leave out rounds"
                )
            optimizer.step()
    _prune_student(work, student, weights, gradients, target, alpha, everything)
    return weights


def _prune_student(
    work: BlockWork,
    student: nn.Module,
    weights: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor],
    target: Target,
    alpha: float,
    chosen: Sequence[int],
) -> None:
    """Prune the student's matrices in place, scored with its own inputs in the chosen batches.

    weights: the matrices to prune, gradients: their G; by name, [out, in] float32 each. chosen: indices of batches.
    """

    def hidden(index: int) -> torch.Tensor:
        assert work.hidden is not None
        return work.hidden(chosen[index]).float()

    batches = [work.batches[index] for index in chosen]
    calls = [as_float(work.calls[index]) for index in chosen]
    known = {m.name: g.statistic for g in work.groups for m in g.matrices}
    for group in observe(student, batches, hidden, calls, StatisticNeeds(), where=work.where):
        for matrix in group.matrices:
            # A matrix that these windows don't reach is scored with the inputs of all windows.
            statistic = group.statistic or known.get(matrix.name)
            if matrix.name in weights and statistic is not None:
                norms = _norms(statistic)
                zero(matrix, wandapp_cut(matrix.weight, norms, gradients[matrix.name], target, alpha))


def _norms(statistic: InputStatistic) -> torch.Tensor:
    """Return ‖X‖₂ of each input, rescaled to 128 windows of 2048 tokens, [in]."""
    return statistic.norms * math.sqrt(TOKENS / max(statistic.tokens, 1))


def as_float(call: Call) -> Call:
    """Return a call with its floating-point tensors in float32."""
    args, kwargs = _floats((call.args, dict(call.kwargs)))
    return call._replace(args=args, kwargs=kwargs)


def _floats(value: Any) -> Any:
    if torch.is_tensor(value):
        return value.float() if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(map(_floats, value))
    if isinstance(value, dict | UserDict):
        # Copy it: blocks store keys and values for other blocks in it, and the model must not get a copied block's.
        return type(value)({key: _floats(item) for key, item in value.items()})
    return value


def _float_copy(
    block: nn.Module, names: Sequence[str], where: str
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return a float32 copy of the block that requires gradients, and views of its matrices by name, [out, in]."""
    twin = copy.deepcopy(block).float().requires_grad_(True)
    weights = {matrix.name: matrix.weight for matrix in all_matrices(twin, where)}
    return twin, {name: weights[name] for name in names}


def _check_order(twin: nn.Module, states: torch.Tensor, call: Call, where: str) -> None:
    """Refuse a block whose states, [n, n, H] for n windows of n tokens, have tokens first."""
    changed = states.clone()
    changed[..., 0, :, :] *= -1
    before, after = (run_block(twin, each, call)[..., 1:, :, :] for each in (states, changed))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise _other_order(where)


def _other_order(where: str) -> RefusedError:
    return RefusedError(
        f"the states of {where} have tokens first and texts after, so this method would take one for the other; "
        "wanda doesn't tell them apart"
    )


def _real(out: torch.Tensor, batch: Batch, where: str) -> list[torch.Tensor]:
    """Return the output of each window without padding, [(streams,) S, H] each or [S, streams, H].

    out: [(streams,) B, S, H] or [B, S, streams, H]; where tokens were added (CPM-Ant's prompts), S is more than the
    batch's.
    Raises `CompressionError` for another order (XLNet has tokens first), which would take tokens for windows.
    """
    axes = [axis for axis in range(out.dim() - 2) if out.shape[axis : axis + 2] == batch.input_ids.shape]
    axis = axes[0] if axes else out.dim() - 3
    longer = batch.real is None and out.shape[axis] == len(batch.input_ids)
    if not axes and not (longer and out.shape[axis + 1] > batch.input_ids.shape[1]):
        raise _other_order(where)
    windows = out.unbind(axis)
    if batch.real is None:
        return list(windows)
    real = batch.real.to(out.device).view(batch.input_ids.shape)
    return [
        window.index_select(axis, kept.nonzero().flatten())
        for window, kept in zip(windows, real.unbind(), strict=True)
    ]


@contextmanager
def _recording(
    layers: Mapping[str, nn.Module],
) -> Iterator[dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Record the input [..., in] and output [..., out] of each call of each layer while the block runs."""
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def recorder(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor) -> None:
            entered = args[0] if args else next(iter(kwargs.values()))
            seen.setdefault(name, []).append((entered.detach(), out))

        return read

    handles = [layer.register_forward_hook(recorder(n), with_kwargs=True) for n, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


METHOD = Method(StatisticNeeds(), wandapp_block, prune_unreached, runs_block=True)
