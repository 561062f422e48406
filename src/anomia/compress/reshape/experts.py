"""Drop the least important experts or merge similar ones, the same number in every block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Windows
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Reshaper
from anomia.compress.reshape.parts import ReshapePlan, all_taken, outline, rows_of
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Loaded, Subject
from anomia.compress.statistics import Needs
from anomia.compress.visit import Pass
from anomia.compress.walk import make_model_batches
from anomia.errors import CompressionError
from anomia.words import counted, reason_of

DROP = "dropexperts"
MERGE = "mergeexperts"
_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_CHOSEN = (
    "num_experts_per_tok",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "num_selected_experts",
    "top_k_experts",
    "num_experts_per_token",
    "top_k",
)
# Calibration tokens per block on which every expert is run, to compare their outputs.
COMPARED_TOKENS = 2048


class Mixtures(NamedTuple):
    """The experts of a model.

    field: the configuration field with their number. experts: their number per block. chosen: experts per token.
    groups: groups of the router, 1 if it has none. modules: by block, the path in the block; `None` for a dense block.
    """

    field: str
    experts: int
    chosen: int
    groups: int
    modules: tuple[str | None, ...]


class Usage(NamedTuple):
    """Statistics of each expert of one block over the calibration tokens, [E] float64.

    tokens: number of tokens routed to it. saliency: mean of router weight · ‖output‖ over them, 0 if there are none.
    outputs: mean output over the same tokens for all experts, [E, H]; None unless requested.
    """

    tokens: torch.Tensor
    saliency: torch.Tensor
    outputs: torch.Tensor | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the statistics that aren't None, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def dropexperts(
    model: nn.Module,
    decoder: DecoderBlocks,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Drop experts of a loaded model in place; see `drop_experts`."""
    return drop_experts(Loaded(model, decoder), share, windows, progress=progress, batch_tokens=batch_tokens)


def drop_experts(
    subject: Subject,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Drop the experts with the lowest saliency, and their rows of the router.

    The saliency is REAP's: the mean of router weight times output norm over the tokens routed to the expert (Lasby et
    al. 2025, Equation 9); it is 0 if no token was. The other rows of the router stay the same, so tokens whose experts
    are all kept are routed as before.

    Args:
        share: fraction of the experts of a block, rounded down; a whole number drops that many. If the router first
            chooses groups of experts, the same number is dropped from each group.
        windows: calibration tokens, for the dense model.

    Raises:
        CompressionError: the model has no readable mixture, too few experts would be left for the router, or a
            statistic is NaN or infinite; nothing was changed.
    """
    windows, mixtures, kept_count = _prepare(subject, share, windows, DROP)
    usages = _usage(subject, mixtures, windows, DROP, progress=progress, batch_tokens=batch_tokens)
    kept = [None if u is None else keep_highest(u.saliency, kept_count, mixtures.groups) for u in usages]
    groups = [None if k is None else [[expert] for expert in k] for k in kept]
    return _apply(subject, mixtures, usages, groups, kept_count, windows, DROP)


def mergeexperts(
    model: nn.Module,
    decoder: DecoderBlocks,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Merge experts of a loaded model in place; see `merge_experts`."""
    return merge_experts(Loaded(model, decoder), share, windows, progress=progress, batch_tokens=batch_tokens)


def merge_experts(
    subject: Subject,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Merge experts with similar outputs, until a share of the experts is gone.

    Experts are clustered by their mean outputs over the same tokens, with average linkage. Each cluster becomes one
    expert: the average of its experts' weights, weighted by how often each was used (Chen et al. 2025, HC-SMoE, Section
    3). HC-SMoE keeps a router row for every former expert; an ordinary configuration has one row per expert, so each
    cluster keeps the row of its most used expert.

    Arguments and errors are those of `drop_experts`.
    """
    windows, mixtures, kept_count = _prepare(subject, share, windows, MERGE)
    usages = _usage(
        subject, mixtures, windows, MERGE, outputs=True, progress=progress, batch_tokens=batch_tokens
    )
    clusters = [None if u is None else _cluster_block(u, kept_count, mixtures.groups) for u in usages]
    return _apply(subject, mixtures, usages, clusters, kept_count, windows, MERGE)


def _prepare(
    subject: Subject, share: float, windows: Windows | None, method: str
) -> tuple[Windows, Mixtures, int]:
    windows = rebuild.check_request(subject, windows, method)
    model, decoder = subject.model, subject.decoder
    try:
        mixtures = find_mixtures(model, decoder)
        gone = rebuild.count_of(share, mixtures.experts, method, "experts")
        kept = mixtures.experts - gone
        _check_routing(model, mixtures, kept)
        _cuts(model, decoder, mixtures, kept)
    except CannotExpressError as error:
        raise rebuild.refusal(method, model, error) from error
    return windows, mixtures, kept


def find_mixtures(model: nn.Module, decoder: DecoderBlocks) -> Mixtures:
    """Find the experts of every block, and the configuration field with their number.

    Raises `CannotExpressError` if there are none, or if blocks differ in their number.
    """
    modules: list[str | None] = []
    counts = set()
    for block in decoder.modules:
        found = [(name, count) for name, module in block.named_modules() if (count := _count(module))]
        if len(found) > 1:
            raise CannotExpressError(f"a block has several mixtures: {', '.join(name for name, _ in found)}")
        modules.append(found[0][0] if found else None)
        counts |= {count for _, count in found}
    if not counts:
        raise CannotExpressError("it has no mixture of experts that transformers declares as one")
    if len(counts) > 1:
        raise CannotExpressError(f"its blocks have different numbers of experts: {sorted(counts)}")
    (count,) = counts
    text = rebuild.text_config(model)
    fields = [
        *_COUNTS,
        *(n for n in text.to_dict() if "expert" in n and not any(c in n for c in ("tok", "top"))),
    ]
    named = [
        n for n in fields if rebuild.field(text, n) == count and _decides(model, decoder, modules, n, count)
    ]
    name = rebuild.field_name(text, named, lambda value: value == count)
    if name is None:
        raise CannotExpressError(f"no field of its configuration decides the number of its {count} experts")
    chosen = [rebuild.field(text, n) for n in _CHOSEN]
    groups = rebuild.field(text, "n_group") or rebuild.field(text, "num_expert_group") or 1
    return Mixtures(
        name, count, next((c for c in chosen if isinstance(c, int)), 1), int(groups), tuple(modules)
    )


def _count(module: nn.Module) -> int:
    """Count the experts that a module holds in three-dimensional parameters, [E, ., .]; 0 for other modules."""
    stacks = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    if not stacks or not isinstance(getattr(module, "is_transposed", None), bool):
        return 0
    return len(stacks[0]) if len({len(p) for p in stacks}) == 1 and len(stacks[0]) > 1 else 0


def _decides(
    model: nn.Module, decoder: DecoderBlocks, modules: Sequence[str | None], name: str, count: int
) -> bool:
    try:
        built = rebuild.skeleton(model, rebuild.changed_config(model, {name: count - 1}))
        return all(
            path is None or _count(built.get_submodule(f"{decoder.name}.{index}.{path}")) in (count - 1, 0)
            for index, path in enumerate(modules)
        ) and rebuild.shapes(built) != rebuild.shapes(model)
    except (CannotExpressError, AttributeError):
        return False


def _check_routing(model: nn.Module, mixtures: Mixtures, kept: int) -> None:
    """Refuse fewer experts than the router chooses, and groups of unequal size."""
    if kept < mixtures.chosen:
        raise CannotExpressError(
            f"its router chooses {mixtures.chosen} experts per token, and {kept} would be left"
        )
    if mixtures.groups == 1:
        return
    if kept % mixtures.groups:
        raise CannotExpressError(
            f"its router chooses among {mixtures.groups} groups of equal size, into which {kept} experts can't be divided"
        )
    each = kept // mixtures.groups
    open_groups = int(rebuild.field(rebuild.text_config(model), "topk_group") or 1)
    if each < 2 or open_groups * each < mixtures.chosen:
        raise CannotExpressError(
            f"its router chooses {mixtures.chosen} experts from {open_groups} of {mixtures.groups} groups, "
            f"and {each} per group would be left"
        )


def _cuts(model: nn.Module, decoder: DecoderBlocks, mixtures: Mixtures, kept: int) -> dict[str, int]:
    """Return the expert dimension of every tensor that has one, by name, by building the model without weights.

    Raises `CannotExpressError` if a tensor would change in another way.
    """
    built = rebuild.shapes(rebuild.skeleton(model, rebuild.changed_config(model, {mixtures.field: kept})))
    before = rebuild.shapes(model)
    if built.keys() != before.keys():
        raise CannotExpressError("other tensors would be built")
    found = {}
    for name, shape in before.items():
        if built[name] == shape:
            continue
        differ = [
            d for d in range(len(shape)) if len(shape) == len(built[name]) and shape[d] != built[name][d]
        ]
        if len(differ) != 1 or shape[differ[0]] - built[name][differ[0]] != mixtures.experts - kept:
            raise CannotExpressError(f"{name} would change from {shape} to {built[name]}")
        if not name.startswith(f"{decoder.name}."):
            raise CannotExpressError(f"{name} outside of the blocks has an entry per expert")
        found[name] = differ[0]
    for index, path in enumerate(mixtures.modules):
        where = f"{decoder.name}.{index}.{path}."
        if path is not None and not any(name.startswith(where) for name in found):
            raise CannotExpressError(f"{where[:-1]} would keep its {mixtures.experts} experts")
    return found


# Measure how the experts are used.


def expert_usage(
    model: nn.Module,
    decoder: DecoderBlocks,
    mixtures: Mixtures,
    windows: Windows,
    method: str,
    *,
    outputs: bool = False,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Usage | None]:
    """Measure how every expert is used, by block, in one walk over the dense model.

    outputs: also run all experts on the same tokens.

    Raises `CompressionError` if the experts aren't called with states, choices and weights, or if a value is NaN or
    infinite.
    """
    return _usage(
        Loaded(model, decoder), mixtures, windows, method, outputs=outputs, progress=progress,
        batch_tokens=batch_tokens,
    )  # fmt: skip


def _usage(
    subject: Subject,
    mixtures: Mixtures,
    windows: Windows,
    method: str,
    *,
    outputs: bool = False,
    progress: Callable[[int, int], None] | None,
    batch_tokens: int,
) -> list[Usage | None]:
    stride = 0

    def look(index: int, block: nn.Module, passes: Iterator[Pass]) -> dict[str, torch.Tensor]:
        path = mixtures.modules[index]
        where = f"{subject.decoder.path(index)}.{path}"
        counter = _Counter(mixtures.experts, where, method, stride)
        with _counting(None if path is None else block.get_submodule(path), counter):
            for one in passes:
                one.run()
        return {} if path is None else counter.finish().tensors()

    if outputs:
        batches = make_model_batches(subject.decoder, windows, Needs(), batch_tokens=batch_tokens)
        stride = max(1, sum(batch.input_ids.numel() for batch in batches) // COMPARED_TOKENS)
    found = subject.measure(windows, look, about=method, batch_tokens=batch_tokens, progress=progress)
    return [Usage(one["tokens"], one["saliency"], one.get("outputs")) if one else None for one in found]


class _Counter:
    """Sums over the tokens of one block's experts. stride: each stride-th token is sent to all experts; 0: none is."""

    def __init__(self, count: int, where: str, method: str, stride: int) -> None:
        self._where, self._method, self._stride = where, method, stride
        self._tokens = torch.zeros(count, dtype=torch.float64)
        self._weighted = torch.zeros(count, dtype=torch.float64)
        self._outputs: torch.Tensor | None = None
        self._compared = 0

    def add(self, run: Callable[..., torch.Tensor], args: tuple[Any, ...]) -> None:
        """Count one call of the experts. args: states [..., H]; choices and their weights, [T, k] each.

        run: the experts' forward, which takes the same arguments; called here with one expert at a time.
        """
        hidden, chosen, weights = args
        hidden = hidden.reshape(-1, hidden.shape[-1])
        ones = torch.ones_like(weights[:, :1])
        for expert in range(len(self._tokens)):
            rows, places = torch.where(chosen == expert)
            if len(rows) == 0:
                continue
            out = run(hidden[rows], torch.full_like(chosen[rows, :1], expert), ones[rows])
            norms = out.double().reshape(len(rows), -1).norm(dim=1)
            self._tokens[expert] += len(rows)
            self._weighted[expert] += (weights[rows, places].double() * norms).sum().cpu()
        if self._stride:
            some = hidden[:: self._stride]
            picked = chosen[:: self._stride, :1]
            means = [
                run(some, torch.full_like(picked, e), ones[:: self._stride])
                .double()
                .reshape(len(some), -1)
                .sum(dim=0)
                for e in range(len(self._tokens))
            ]
            total = torch.stack(means).cpu()
            self._outputs = total if self._outputs is None else self._outputs + total
            self._compared += len(some)

    def finish(self) -> Usage:
        if not bool(self._tokens.any()):
            raise CompressionError(
                f"{self._method}: no calibration token reached {self._where}; give longer text"
            )
        saliency = self._weighted / self._tokens.clamp(min=1)
        outputs = None if self._outputs is None else self._outputs / self._compared
        for values in (saliency, *([] if outputs is None else [outputs])):
            rebuild.finite(values, self._method, self._where)
        return Usage(self._tokens, saliency, outputs)


@contextmanager
def _counting(module: nn.Module | None, counter: _Counter) -> Iterator[None]:
    """Report each call of the experts to the counter, which runs the experts again with its own choices."""
    if module is None:
        yield
        return
    busy = False

    def read(experts: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal busy
        if busy:
            return
        given = (*args, *kwargs.values())
        counter_args = _three(given)
        if counter_args is None:
            raise CompressionError(
                f"{counter._method}: {counter._where} ({type(experts).__name__}) isn't called with states, choices and "
                "weights, so it can't be seen which expert gets which token"
            )
        busy = True
        try:
            counter.add(experts, counter_args)
        finally:
            busy = False

    handle = module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _three(given: Sequence[Any]) -> tuple[Any, Any, Any] | None:
    """Return states [T, H], choices [T, k] and weights [T, k], the arguments of fused experts in `transformers`."""
    if len(given) != 3 or not all(map(torch.is_tensor, given)):
        return None
    hidden, chosen, weights = given
    tokens = hidden.numel() // hidden.shape[-1]
    fits = chosen.dim() == 2 and chosen.shape == weights.shape and len(chosen) == tokens
    return (hidden, chosen, weights) if fits and not chosen.is_floating_point() else None


# Choose experts.


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


# Build the smaller model.


def _apply(
    subject: Subject,
    mixtures: Mixtures,
    usages: Sequence[Usage | None],
    clusters: Sequence[list[list[int]] | None],
    kept: int,
    windows: Windows,
    method: str,
) -> ReshapeReport:
    """Build the model with one expert per cluster, which gets the router rows of the cluster's first expert."""
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
        "clusters" if method == MERGE else "kept_experts": [
            c if c is None or method == MERGE else [members[0] for members in c] for c in clusters
        ],
    }
    if method == MERGE:
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
    config = rebuild.changed_config(model, changes)
    sizes = rebuild.shapes(model)
    parts = all_taken(model)
    for name, dim in _cuts(model, decoder, mixtures, kept).items():
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
    """Compare unmerged experts, and the first mixture's routing of tokens whose experts all stayed."""
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

    Raises `CannotExpressError` if the model can't be run, or calls its experts in another way.
    """
    found = {}
    handles = []
    for index, path in enumerate(mixtures.modules):
        if path is None:
            continue

        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], index: int = index) -> None:
            three = _three((*args, *kwargs.values()))
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


DROP_EXPERTS = Reshaper(dropexperts, drop_experts)
MERGE_EXPERTS = Reshaper(mergeexperts, merge_experts)
