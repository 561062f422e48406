"""Drop the least important experts or merge similar ones, the same number in every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Windows
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Reshaper, Walk
from anomia.compress.reshape.mixtures import Mixtures, check_routing, find_cuts, find_mixtures
from anomia.compress.reshape.parts import ReshapePlan, all_taken, outline, rows_of
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Subject
from anomia.compress.reshape.usage import Usage, measure_usage, routing_of
from anomia.words import counted, reason_of

DROP = "dropexperts"
MERGE = "mergeexperts"


def drop_experts(subject: Subject, share: float, walk: Walk) -> ReshapeReport:
    """Drop the experts with the lowest saliency, and their rows of the router.

    The saliency is REAP's: the mean of router weight times output norm over the tokens routed to the expert (Lasby et
    al. 2025, Equation 9); it is 0 if no token was. The other rows of the router stay the same, so tokens whose experts
    are all kept are routed as before.

    share: fraction of the experts of a block, rounded down; a whole number drops that many. If the router first chooses
    groups of experts, the same number is dropped from each group.

    Raises `CompressionError` if the model has no readable mixture, too few experts would be left for the router, or a
    statistic is NaN or infinite; nothing was changed.
    """
    mixtures, kept_count = _prepare(subject, share, DROP)
    usages = measure_usage(subject, mixtures, walk, DROP)
    kept = [None if u is None else keep_highest(u.saliency, kept_count, mixtures.groups) for u in usages]
    groups = [None if k is None else [[expert] for expert in k] for k in kept]
    return _apply(subject, mixtures, usages, groups, kept_count, walk.windows, DROP, merged=False)


def merge_experts(subject: Subject, share: float, walk: Walk) -> ReshapeReport:
    """Merge experts with similar outputs, until a share of the experts is gone.

    Experts are clustered by their mean outputs over the same tokens, with average linkage. Each cluster becomes one
    expert: the average of its experts' weights, weighted by how often each was used (Chen et al. 2025, HC-SMoE, Section
    3). HC-SMoE keeps a router row for every former expert; an ordinary configuration has one row per expert, so each
    cluster keeps the row of its most used expert.

    The share and the errors are those of `drop_experts`.
    """
    mixtures, kept_count = _prepare(subject, share, MERGE)
    usages = measure_usage(subject, mixtures, walk, MERGE, outputs=True)
    clusters = [None if u is None else _cluster_block(u, kept_count, mixtures.groups) for u in usages]
    return _apply(subject, mixtures, usages, clusters, kept_count, walk.windows, MERGE, merged=True)


def _prepare(subject: Subject, share: float, method: str) -> tuple[Mixtures, int]:
    """Return the experts of a model and how many to keep in each block."""
    model, decoder = subject.model, subject.decoder
    try:
        mixtures = find_mixtures(model, decoder)
        gone = rebuild.count_of(share, mixtures.experts, method, "experts")
        kept = mixtures.experts - gone
        check_routing(model, mixtures, kept)
        find_cuts(model, decoder, mixtures, kept)
    except CannotExpressError as error:
        raise rebuild.refusal(method, model, error) from error
    return mixtures, kept


def keep_highest(scores: torch.Tensor, count: int, groups: int) -> list[int]:
    """Return the experts with the highest scores [E], equally many per group, in rising order; the last win ties."""
    kept = []
    size = len(scores) // groups
    for group in range(groups):
        order = scores[group * size : (group + 1) * size].argsort(stable=True).tolist()
        kept += [group * size + expert for expert in sorted(order[size - count // groups :])]
    return kept


def _cluster_block(usage: Usage, count: int, groups: int) -> list[list[int]]:
    """Cluster experts within the router's groups; each cluster starts with its most used expert and is sorted by it."""
    assert usage.outputs is not None
    size = len(usage.tokens) // groups
    found = []
    for group in range(groups):
        part = usage.outputs[group * size : (group + 1) * size]
        for members in cluster(part, count // groups):
            found.append([group * size + expert for expert in members])
    led = [sorted(members, key=lambda e: (-float(usage.tokens[e]), e)) for members in found]
    return sorted(led, key=lambda members: members[0])


def cluster(points: torch.Tensor, count: int) -> list[list[int]]:
    """Cluster points [N, D] by average linkage of Euclidean distances; on ties the lowest indices merge first."""
    members = [[index] for index in range(len(points))]
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    alive = len(points)
    while alive > count:
        first, second = sorted(divmod(int(distances.argmin()), len(points)))
        sizes = len(members[first]), len(members[second])
        merged = (sizes[0] * distances[first] + sizes[1] * distances[second]) / sum(sizes)
        distances[first], distances[:, first] = merged, merged
        distances[second], distances[:, second] = torch.inf, torch.inf
        distances[first, first] = torch.inf
        members[first] += members[second]
        members[second] = []
        alive -= 1
    return [sorted(each) for each in members if each]


def _apply(
    subject: Subject,
    mixtures: Mixtures,
    usages: Sequence[Usage | None],
    clusters: Sequence[list[list[int]] | None],
    kept: int,
    windows: Windows,
    method: str,
    *,
    merged: bool,
) -> ReshapeReport:
    """Build the model with one expert per cluster, which gets the router row, [H], of the cluster's first expert.

    usages, clusters: by block, None without a mixture. kept: experts per mixture afterwards.
    """
    changes = {mixtures.field: kept}
    try:
        plan = _plan(subject.model, subject.decoder, mixtures, usages, clusters, kept, changes)
        fresh = subject.build(plan)
        _check(subject, fresh, mixtures, clusters, windows)
    except CannotExpressError as error:
        raise rebuild.refusal(method, subject.model, error) from error
    unused = sum(int((u.tokens == 0).sum()) for u in usages if u is not None)
    notes = [f"{counted(unused, 'expert was', 'experts were')} sent no calibration token"] if unused else []
    gone = mixtures.experts - kept
    what = f"{gone} of {mixtures.experts} experts in every mixture"
    details: dict[str, Any] = {
        "tokens": [None if u is None else [int(n) for n in u.tokens] for u in usages],
    }
    if not merged:
        details["kept_experts"] = [c if c is None else [members[0] for members in c] for c in clusters]
    else:
        details["clusters"] = clusters
        notes.append("each merged expert has the router row of the one that was used most")
        what += ", merged into the others"
    scores = [u.saliency.tolist() for u in usages if u is not None]
    return rebuild.finish(
        subject, fresh, method, changes, [what], scores=scores, notes=notes, details=details
    )


@torch.no_grad()
def _plan(
    model: nn.Module,
    decoder: DecoderBlocks,
    mixtures: Mixtures,
    usages: Sequence[Usage | None],
    clusters: Sequence[list[list[int]] | None],
    kept: int,
    changes: Mapping[str, Any],
) -> ReshapePlan:
    """Plan a model in which each cluster of experts is one.

    clusters: by block, the old experts of each new one; None without a mixture. kept: new experts per block, K. Tensors
    with an entry per expert, [E, …], become [K, …]: the mean of a cluster weighted by tokens, or the entry of its first
    expert.
    """
    config = rebuild.changed_config(model, changes)
    sizes = rebuild.shapes(model)
    parts = all_taken(model)
    for name, dim in find_cuts(model, decoder, mixtures, kept).items():
        index = int(name.removeprefix(f"{decoder.name}.").partition(".")[0])
        mine, usage = clusters[index], usages[index]
        if mine is None or usage is None:
            raise CannotExpressError(f"{name} has an entry per expert in a block without a mixture")
        inside = name.startswith(f"{decoder.name}.{index}.{mixtures.modules[index]}.") and dim == 0
        if inside and any(len(members) > 1 for members in mine):
            parts[name] = parts[name].then(partial(_averages, clusters=mine, tokens=usage.tokens))
            continue
        rows = [members[0] for members in mine]
        # Keep entries after those of the experts (LongCat's zero experts).
        rows += range(mixtures.experts, sizes[name][dim])
        parts[name] = rows_of(parts[name], dim, torch.tensor(rows))
    rebuild.check_shapes(outline(parts, model), rebuild.skeleton(model, config))
    return ReshapePlan(config, changes, parts)


def _averages(value: torch.Tensor, clusters: Sequence[Sequence[int]], tokens: torch.Tensor) -> torch.Tensor:
    """Average the experts of each cluster: [E, …] to [clusters, …]."""
    return torch.stack([_average(value, members, tokens) for members in clusters])


def _average(value: torch.Tensor, members: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
    """Average the members of [E, …], weighted by their tokens [E]; the plain mean if none was used."""
    used = tokens[list(members)]
    shares = used / used.sum() if float(used.sum()) > 0 else torch.full_like(used, 1 / len(members))
    total = sum(float(share) * value[member].float() for share, member in zip(shares, members, strict=True))
    assert torch.is_tensor(total)
    return total.to(value.dtype)


@torch.no_grad()
def _check(
    subject: Subject,
    fresh: Subject,
    mixtures: Mixtures,
    clusters: Sequence[list[list[int]] | None],
    windows: Windows,
) -> None:
    """Compare the outputs of unmerged experts, [T, H], and how the first mixture routes tokens.

    Only tokens whose experts all stayed count in the second comparison. clusters: by block, None without a mixture.
    """
    ids = rebuild.check_batch(windows, subject.device)
    old, new = (_routed(each, mixtures, ids) for each in (subject, fresh))
    first = next(index for index, path in enumerate(mixtures.modules) if path is not None)
    for index, path in enumerate(mixtures.modules):
        mine = clusters[index]
        if path is None or mine is None:
            continue
        alone = {place: members[0] for place, members in enumerate(mine) if len(members) == 1}
        # Run the two models' blocks in turn, so that only one is in memory.
        expected = _outputs(subject, index, path, old[index], list(alone.values()))
        found = _outputs(fresh, index, path, old[index], list(alone))
        for expert, mine_of, theirs in zip(alone.values(), expected, found, strict=True):
            if not torch.allclose(theirs, mine_of, rtol=1e-2, atol=1e-2 * float(mine_of.abs().max())):
                raise CannotExpressError(f"expert {expert} of block {index} doesn't compute the same")
    if mixtures.groups == 1:
        leaders = [members[0] for members in clusters[first] or []]
        _check_routes(old[first][1], new[first][1], leaders, mixtures.experts)


def _outputs(
    subject: Subject, index: int, path: str, routed: tuple[torch.Tensor, ...], experts: Sequence[int]
) -> list[torch.Tensor]:
    """Return the outputs of some experts of a block for the same states, float32 [T, H] each."""
    hidden, chosen, weights = routed
    ones = torch.ones_like(weights[:, :1])
    with subject.block(index) as block:
        module = block.get_submodule(path)
        return [module(hidden, torch.full_like(chosen[:, :1], expert), ones).float() for expert in experts]


def _check_routes(old: torch.Tensor, new: torch.Tensor, leaders: Sequence[int], count: int) -> None:
    """Check that tokens whose experts all stayed are routed to the same experts. old, new: choices, [T, k]."""
    place = torch.full((count + 1,), -1, dtype=torch.long)
    place[torch.tensor(leaders)] = torch.arange(len(leaders))
    mapped = place[old.long().clamp(max=count).cpu()]
    same = (mapped >= 0).all(dim=1)
    expected, found = mapped[same].sort(dim=1).values, new.long().cpu()[same].sort(dim=1).values
    if expected.shape != found.shape or not torch.equal(expected, found):
        raise CannotExpressError("its router sends tokens elsewhere although their experts stay")


def _routed(
    subject: Subject, mixtures: Mixtures, ids: torch.Tensor
) -> dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return the inputs of each block's experts, by block: states [T, H]; choices and their weights, [T, k] each.

    ids: [1, S].
    Raises `CannotExpressError` if the model can't be run, or calls its experts in another way.
    """
    found = {}
    handles = []
    for index, path in enumerate(mixtures.modules):
        if path is None:
            continue

        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], index: int = index) -> None:
            three = routing_of((*args, *kwargs.values()))
            if three is None:
                raise CannotExpressError("its experts aren't called with states, choices and weights")
            found[index] = (three[0].reshape(-1, three[0].shape[-1]), three[1], three[2])

        module = subject.decoder.modules[index].get_submodule(path)
        handles.append(module.register_forward_pre_hook(read, with_kwargs=True))
    try:
        subject.last_states(ids)
    except CannotExpressError:
        raise
    except Exception as error:
        raise CannotExpressError(f"what is built can't be run: {reason_of(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    return found


DROP_EXPERTS = Reshaper(DROP, drop_experts, "experts", "only whole experts go")
MERGE_EXPERTS = Reshaper(MERGE, merge_experts, "experts", "only whole experts go")
