"""The decoder blocks of a model and their weight matrices, found by looking, not by a table of names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from anomia.compress.products import Watched, WeightProducts
from anomia.errors import CompressionError, RefusedError
from anomia.models.shrunk import NotBuiltError, tiny_model

# Enough for an expert of every layer to be chosen.
_TRIAL_TOKENS = 64

# Why a weight of two or more dimensions stays dense.
EMBEDDING = "embedding"
HEAD = "output head"
ROUTER = "router or gate"
CONVOLUTION = "convolution"
NORM = "norm"
BIAS = "bias"
BARE = "parameter that is no layer (decay, mixing, scale)"
OTHER_MODEL = "part with a configuration of its own (vision, audio)"
OUTSIDE = "outside the blocks"
REASONS = (EMBEDDING, HEAD, ROUTER, CONVOLUTION, NORM, BIAS, BARE, OTHER_MODEL, OUTSIDE)


class DecoderBlocks(NamedTuple):
    """The repeated blocks of a decoder. name: their path in the model, such as `model.layers`.

    paths: of each block, where there are several lists of them (HRM has two stacks); else they follow from the name.
    padded: whether what follows a text leaves its states alone, so that texts of unequal length can run together.
    fault: why blocks can't be run by themselves, one after the other; empty where they can.
    """

    name: str
    modules: tuple[nn.Module, ...]
    paths: tuple[str, ...] = ()
    padded: bool = True
    fault: str = ""

    def path(self, index: int) -> str:
        """Where a block is in the model."""
        return self.paths[index] if self.paths else f"{self.name}.{index}"


class WeightMatrix(NamedTuple):
    """One weight matrix of a block.

    name: path in the block, `[index]` behind it for an expert's slice of a fused parameter.
    weight: [out, in], a view: what is written into it is written into the model.
    """

    name: str
    weight: torch.Tensor


class FusedExperts(NamedTuple):
    """A parameter that holds several matrices, one for each expert or head.

    parameter: [E, out, in], or [E, in, out] where `transposed`.
    """

    name: str
    parameter: nn.Parameter
    transposed: bool

    def matrices(self) -> list[WeightMatrix]:
        """One [out, in] view an expert."""
        slices = (part.T if self.transposed else part for part in self.parameter.data)
        return [WeightMatrix(f"{self.name}[{index}]", part) for index, part in enumerate(slices)]


class Call(NamedTuple):
    """How the model calls a block, apart from the hidden states (masks, position embeddings, …).

    skipped: it doesn't call it, as with blocks that look at pictures when there are none.
    whole: a pass of the whole model, where the block can't be run by itself.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    skipped: bool = False
    whole: Callable[[], Any] | None = None


class _RecordedError(Exception):
    """Ends a forward pass once every block's call is known."""


def find_blocks(model: nn.Module) -> DecoderBlocks:
    """The decoder blocks: the lists of modules with linear layers in the text decoder, lists inside them left aside.

    A list in a part that has a configuration of its own (a vision or audio tower) is another model's. Several lists
    are taken one after the other, in the model's order.

    Raises `CompressionError` for a model that is not built from repeated blocks.
    """
    lists = _lists(model, _decoder(model)) or _lists(model, model)
    if not lists:
        raise CompressionError(
            f"{type(model).__name__} has no list of decoder blocks with linear layers; it can't be pruned"
        )
    modules = tuple(block for _, blocks in lists for block in blocks)
    _find_orientations(model, modules)
    _mark_shared(modules)
    if len(lists) == 1:
        return DecoderBlocks(lists[0][0], modules)
    paths = tuple(f"{name}.{index}" for name, blocks in lists for index in range(len(blocks)))
    return DecoderBlocks(", ".join(name for name, _ in lists), modules, paths)


# Where a block keeps the names of its parameters that an earlier block holds too (Zamba's attention): compressed there.
_SHARED = "_anomia_shared"


def _mark_shared(blocks: Sequence[nn.Module]) -> None:
    seen: set[int] = set()
    for block in blocks:
        mine = dict(block.named_parameters(remove_duplicate=False))
        block.__dict__[_SHARED] = {name for name, parameter in mine.items() if id(parameter) in seen}
        seen |= {id(parameter) for parameter in mine.values()}


def shares_matrices(block: nn.Module) -> bool:
    """Whether matrices of a block are also an earlier block's."""
    return any(block.get_parameter(name).dim() >= 2 for name in block.__dict__.get(_SHARED, ()))


def _decoder(model: nn.Module) -> nn.Module:
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    return decoder if isinstance(decoder, nn.Module) else model


def _lists(model: nn.Module, root: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    prefix = next((name for name, module in model.named_modules() if module is root), "")
    found: list[tuple[str, nn.ModuleList]] = []
    apart = [name for name, module in model.named_modules() if _is_other_model(model, module)]
    for name, module in root.named_modules(prefix=prefix):
        if not isinstance(module, nn.ModuleList) or len(module) == 0 or not all(map(_is_block, module)):
            continue
        if not any(name.startswith(f"{outer}.") for outer in (*(n for n, _ in found), *apart)):
            found.append((name, module))
    return found


def _is_block(module: nn.Module) -> bool:
    return not isinstance(module, nn.Linear | Conv1D) and _has_linear(module)


def _is_other_model(model: nn.Module, module: nn.Module) -> bool:
    """Whether a part is a model with a configuration of its own, neither the whole one's nor of its text decoder."""
    whole, own = getattr(model, "config", None), getattr(module, "config", None)
    if not isinstance(module, PreTrainedModel) or whole is None or own is None:
        return False
    return type(own) is not type(whole) and type(own) is not type(whole.get_text_config())


def find_matrices(block: nn.Module, *, where: str) -> list[WeightMatrix]:
    """Every `Linear` and `Conv1D` of a block as an [out, in] view, in the block's own order, without routers.

    Raises `CompressionError` for weights that are already quantized.
    """
    matrices = []
    for name, module in _layers(block):
        weight = module.weight
        if not weight.is_floating_point() or weight.dim() != 2 or type(weight.data) is not torch.Tensor:
            raise CompressionError(
                f"{where}.{name} is stored as {weight.dtype} ({type(weight).__name__}): an already"
                " quantized model can't be pruned; start from its dense checkpoint"
            )
        matrices.append(WeightMatrix(name, weight.data.T if isinstance(module, Conv1D) else weight.data))
    return matrices


def _layers(block: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of a block whose weights are compressed: all but what selects among experts, or gates a whole one."""
    experts = _experts(block)
    shared = block.__dict__.get(_SHARED, ())
    for name, module in block.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or f"{name}.weight" in shared:
            continue
        if not _selects(block, name, module, experts):
            yield name, module


def _experts(block: nn.Module) -> dict[str, int]:
    """How many experts there are, by the path of the module that holds them."""
    return {name: count for name, module in block.named_modules() if (count := _experts_in(module))}


def _selects(block: nn.Module, name: str, module: Any, experts: Mapping[str, int]) -> bool:
    """Whether a layer's output is a choice and no state: one number, or one for each expert beside it.

    A layer of as many outputs that the next layer beside it reads (the first matrix of a shared expert that is just as
    wide) chooses nothing. Where the experts stand in the block itself, or the choice is not among experts, the name
    tells: `router`. What feeds nothing but a router is a part of it (`down_proj` before Zaya's `router_mlp`).
    """
    rows = int(module.weight.shape[1 if isinstance(module, Conv1D) else 0])
    return rows == 1 or _chooses(block, name, rows, experts) or _feeds_router(block, name, experts)


def _chooses(block: nn.Module, name: str, rows: int, experts: Mapping[str, int]) -> bool:
    """Whether a layer is called a router, or gives a number for each expert beside it."""
    if any("router" in part for part in name.split(".")):
        return True
    among = any(
        path and rows == count and name.startswith(f"{path}.") and not _is_inside(block, name, path)
        for path, count in experts.items()
    )
    return among and not _is_read_beside(block, name, rows)


def _feeds_router(block: nn.Module, name: str, experts: Mapping[str, int]) -> bool:
    """Whether a layer stands with a router in a module beside experts that holds none itself.

    What such a module gives is the choice, and nothing else.
    """
    for path in experts:
        if not path or not name.startswith(f"{path}.") or _is_inside(block, name, path):
            continue
        parts = name[len(path) + 1 :].split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            gate = ".".join([path, *parts[:depth]])
            if any(holder == gate or holder.startswith(f"{gate}.") for holder in experts):
                continue
            layers = block.get_submodule(gate).named_modules(prefix=gate)
            if any(
                isinstance(layer, nn.Linear | Conv1D) and _chooses(block, other, _sizes(layer)[0], experts)
                for other, layer in layers
                if other != name
            ):
                return True
    return False


def _is_read_beside(block: nn.Module, name: str, rows: int) -> bool:
    """Whether another layer in the same module takes what this one gives, or gives as wide an input as this one takes."""
    parent, _, own = name.rpartition(".")
    mine = block.get_submodule(name)
    for other, module in block.get_submodule(parent).named_children():
        if other != own and isinstance(module, nn.Linear | Conv1D):
            there, here = _sizes(module), _sizes(mine)
            if there[0] > 1 and (there == here[::-1] or (there[1] == rows and there[0] != rows)):
                return True
    return False


def _sizes(module: Any) -> tuple[int, int]:
    """(out, in)."""
    rows, columns = module.weight.shape
    return (int(columns), int(rows)) if isinstance(module, Conv1D) else (int(rows), int(columns))


def _is_inside(block: nn.Module, name: str, path: str) -> bool:
    """Whether a layer is a part of an expert: in a list of modules below `path`, as `mlp.experts.3.up_proj` is.

    What runs one after the other (`nn.Sequential`) is no list of experts: a gate may be made of it.
    """
    module = block.get_submodule(path)
    for part in name[len(path) + 1 :].split("."):
        if isinstance(module, nn.ModuleList):
            return True
        module = getattr(module, part)
    return False


def _experts_in(module: nn.Module) -> int:
    """How many experts a module holds as children or grandchildren: a list of them, or fused parameters; 0 for none."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1 and all(map(_has_linear, child)):
            return len(child)
        fused = [p for n, p in child.named_parameters(recurse=False) if _orientation(child, n, p) is not None]
        if fused and len(fused[0]) > 1:
            return len(fused[0])
    return 0


def has_experts(block: nn.Module) -> bool:
    """Whether tokens of a batch take different ways through a block."""
    return bool(_experts(block)) or any("expert" in name.lower() for name, _ in block.named_modules())


def find_fused_experts(block: nn.Module, *, where: str) -> list[FusedExperts]:
    """Parameters that hold one matrix for each expert (`experts.gate_up_proj` of Mixtral and Qwen3-MoE) or head.

    Raises `CompressionError` for a stack of matrices that neither `transformers` declares as experts nor a few tokens
    showed how the model multiplies with.
    """
    found = []
    for path, module, name, parameter in _stacks(block):
        transposed = _orientation(module, name, parameter)
        if transposed is None:
            if name in module.__dict__.get(_SEEN, {}):
                continue
            raise CompressionError(
                f"{where}.{path}.{name} ({type(module).__name__}) is a stack of {len(parameter)} matrices"
                f" of {parameter.dtype} that can't be pruned one by one, and it is not silently left dense"
            )
        if not parameter.is_floating_point():
            raise CompressionError(
                f"{where}.{path}.{name} is stored as {parameter.dtype}: an already quantized model can't be pruned; "
                "start from its dense checkpoint"
            )
        found.append(FusedExperts(f"{path}.{name}" if path else name, parameter, transposed))
    return found


# Where a module keeps what a pass over a few tokens showed: by parameter, whether it is multiplied as [E, in, out]; None
# where it is in no product.
_SEEN = "_anomia_orientations"


def _orientation(module: nn.Module, name: str, parameter: nn.Parameter) -> bool | None:
    """Whether a parameter is a stack of [in, out] matrices (True) or of [out, in] ones; None where it is none."""
    if parameter.dim() != 3:
        return None
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return declared if min(parameter.shape[1:]) > 1 else None
    seen: bool | None = module.__dict__.get(_SEEN, {}).get(name)
    return seen


def _stacks(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Parameters that may be stacks of matrices: path and module, name and value."""
    for path, module in block.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if full in block.__dict__.get(_SHARED, ()):
                continue
            if parameter.dim() == 3 and min(parameter.shape[1:]) > 1:
                yield path, module, name, parameter


def _find_orientations(model: Any, blocks: Sequence[nn.Module]) -> None:
    """See how a model multiplies with stacks of matrices that it doesn't declare, and keep it at their modules.

    A few tokens pass through it, or through a tiny model of the same configuration where its weights aren't there.
    """
    unknown = [
        (module, name, parameter)
        for block in blocks
        for _, module, name, parameter in _stacks(block)
        if not isinstance(getattr(module, "is_transposed", None), bool)
        and name not in module.__dict__.get(_SEEN, {})
    ]
    if not unknown:
        return
    if unknown[0][2].is_meta:
        try:
            small = find_blocks(tiny_model(model.config))
        except (NotBuiltError, CompressionError):
            return
        seen = {
            (type(module), name): orientation
            for block in small.modules
            for module in block.modules()
            for name, orientation in module.__dict__.get(_SEEN, {}).items()
        }
    else:
        seen = _watch_orientations(model, unknown)
    for module, name, _ in unknown:
        if (type(module), name) in seen:
            module.__dict__.setdefault(_SEEN, {})[name] = seen[type(module), name]


@torch.no_grad()
def _watch_orientations(
    model: Any, unknown: Sequence[tuple[nn.Module, str, nn.Parameter]]
) -> dict[tuple[type, str], bool | None]:
    """By class and name: whether a stack is multiplied as [E, in, out]; None where it is in no product.

    What is multiplied in another shape, or in both, is left out.
    """
    watched = [
        Watched(f"{number} {kind}", part.T if kind else part)
        for number, (_, _, parameter) in enumerate(unknown)
        for kind in (0, 1)
        for part in parameter.data
    ]
    used: set[str] = set()
    ids = torch.arange(_TRIAL_TOKENS, device=unknown[0][2].device)[None]
    ids %= model.get_input_embeddings().weight.shape[0]
    products = WeightProducts(watched, lambda name, *_: used.add(name))
    training = [part for part in model.modules() if part.training]
    try:
        with products:
            model.eval()(input_ids=ids, use_cache=False)
    finally:
        for part in training:
            part.training = True
    seen: dict[tuple[type, str], set[bool | None]] = {}
    for number, (module, name, _) in enumerate(unknown):
        kinds = {bool(kind) for kind in (0, 1) if f"{number} {kind}" in used}
        if kinds or f"{number} 0" in products.unread:
            seen.setdefault((type(module), name), set()).update(kinds or {None})
    multiplied = {
        key: next(iter(kinds)) for key, kinds in seen.items() if len(kinds) == 1 and kinds != {None}
    }
    untouched = {
        (type(module), name): None for module, name, _ in unknown if (type(module), name) not in seen
    }
    return multiplied | untouched


def all_matrices(block: nn.Module, where: str) -> list[WeightMatrix]:
    """Every matrix of a block that pruning touches, an expert's slices one by one."""
    matrices = find_matrices(block, where=where)
    for fused in find_fused_experts(block, where=where):
        matrices += fused.matrices()
    return matrices


def block_weights(decoder: DecoderBlocks) -> int:
    """How many weights the matrices of all blocks have."""
    return sum(
        matrix.weight.numel()
        for index, block in enumerate(decoder.modules)
        for matrix in all_matrices(block, decoder.path(index))
    )


def left_dense(model: nn.Module, decoder: DecoderBlocks) -> list[str]:
    """Names of the weights of two or more dimensions that pruning doesn't touch, for the report."""
    return list(why_dense(model, decoder))


def why_dense(model: nn.Module, decoder: DecoderBlocks) -> dict[str, str]:
    """The weights of two or more dimensions that pruning doesn't touch, each with its reason, one of `REASONS`."""
    pruned = set()
    for index, block in enumerate(decoder.modules):
        pruned |= {id(module.weight) for _, module in _layers(block)}
        pruned |= {id(fused.parameter) for fused in find_fused_experts(block, where=decoder.path(index))}
    return {
        name: _why(model, decoder, name, p)
        for name, p in model.named_parameters()
        if p.dim() >= 2 and id(p) not in pruned
    }


def _why(model: Any, decoder: DecoderBlocks, name: str, parameter: torch.Tensor) -> str:
    """Why pruning doesn't touch a weight of two or more dimensions: one of `REASONS`.

    parameter: only whether it has a row for each expert, [experts, ...], is looked at.
    """
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    kind = type(owner).__name__.lower()
    block = next((i for i in range(len(decoder.modules)) if name.startswith(f"{decoder.path(i)}.")), None)
    if leaf.endswith("bias"):
        return BIAS
    if isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d) or "conv" in kind.removeprefix("conv1d"):
        return CONVOLUTION
    if "norm" in kind and not isinstance(owner, nn.Embedding):
        return NORM
    if block is not None:
        inside = decoder.modules[block]
        below = name.removeprefix(f"{decoder.path(block)}.")
        if isinstance(owner, nn.Linear | Conv1D) or _is_router_weight(inside, below, parameter):
            return ROUTER
        return EMBEDDING if isinstance(owner, nn.Embedding) else BARE
    above = [part for part, module in model.named_modules() if part and _is_other_model(model, module)]
    if any(name.startswith(f"{part}.") for part in above):
        return OTHER_MODEL
    if isinstance(owner, nn.Embedding) or "embed" in kind:
        return EMBEDDING
    is_inside = model.base_model is not model and name.startswith(f"{model.base_model_prefix}.")
    if owner is model.get_output_embeddings() or not is_inside:
        return HEAD
    return EMBEDDING if "embed" in name.rpartition(".")[0].rpartition(".")[2] else OUTSIDE


def _is_router_weight(block: nn.Module, name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter that is not a layer's is a router's: by its name, or by one row per expert, [experts, ...]."""
    path = name.rpartition(".")[0]
    if any("router" in part or part == "gate" for part in path.split(".")):
        return True
    if any(
        _orientation(block.get_submodule(path), n, p) is not None for n, p in _own_parameters(block, path)
    ):
        # A state beside a stack of matrices in the very module that multiplies with both (Zamba's Mamba heads).
        return False
    return any(
        outer
        and len(parameter) == count
        and name.startswith(f"{outer}.")
        and not _is_inside(block, name, outer)
        for outer, count in _experts(block).items()
    )


def _own_parameters(block: nn.Module, path: str) -> list[tuple[str, nn.Parameter]]:
    return list(block.get_submodule(path).named_parameters(recurse=False))


@torch.no_grad()
def record_calls(
    model: nn.Module, decoder: DecoderBlocks, input_ids: torch.Tensor
) -> tuple[torch.Tensor, list[Call]]:
    """How the model calls each block on `input_ids` [B, S], at the cost of one block.

    The blocks pass their input through while the model's own code computes masks and position
    embeddings for each. Returns what enters the first block, [B, S, H], and one call a block.

    Raises `CompressionError` for a model that doesn't call its blocks once each, in their order, and for tokens that it
    has no place for.
    """
    check_tokens(model, input_ids)
    calls: dict[int, Call] = {}
    entered: list[torch.Tensor] = []
    shape: list[Callable[[torch.Tensor], Any]] = []
    beside: list[torch.Tensor] = []
    last = len(decoder.modules) - 1

    def recorder(index: int, block: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if calls and index <= max(calls):
                raise CompressionError(
                    f"{type(model).__name__} doesn't call the blocks {decoder.name} once each and one after another"
                )
            hidden = args[0] if args else kwargs.pop("hidden_states")
            if any(given is one for given in (*args[1:], *kwargs.values()) for one in beside):
                raise CompressionError(
                    f"the blocks {decoder.name} of {type(model).__name__} hand each other more than hidden states"
                )
            if not entered:
                entered.append(hidden)
                out = type(block).forward(block, hidden, *args[1:], **kwargs)
                shape.append((lambda h: h) if torch.is_tensor(out) else (lambda h: (h, *out[1:])))
                beside.extend(() if torch.is_tensor(out) else filter(torch.is_tensor, out[1:]))
            calls[index] = Call(args[1:], kwargs)
            if index == last:
                raise _RecordedError
            return shape[0](hidden)

        return forward

    with _replaced_forwards(decoder, recorder), suppress(_RecordedError):
        try:
            model(input_ids=input_ids, use_cache=False)
        except (_RecordedError, CompressionError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            limit = getattr(_text_config(model), "max_position_embeddings", None)
            if isinstance(limit, int) and input_ids.shape[1] > limit > 0:
                raise _too_long(model, input_ids.shape[1], limit) from error
            if types := _types(decoder.modules[0], entered):
                raise _mixed_types(types) from error
            raise CompressionError(
                f"the blocks {decoder.name} of {type(model).__name__} can't be run by themselves "
                f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            ) from error
    if not calls:
        raise CompressionError(f"{type(model).__name__} doesn't call the blocks {decoder.name} on a text")
    return entered[0], [calls.get(index, Call((), {}, skipped=True)) for index in range(last + 1)]


def check_tokens(model: nn.Module, input_ids: torch.Tensor) -> None:
    """Refuses token ids that have no embedding, and texts with more tokens than a table of positions has rows.

    On a GPU, reading past the end of a table ends the whole process. input_ids: [B, S].
    """
    table = (
        getattr(model.get_input_embeddings(), "weight", None) if isinstance(model, PreTrainedModel) else None
    )
    highest = int(input_ids.max()) if input_ids.numel() else 0
    if isinstance(table, torch.Tensor) and highest >= len(table):
        raise CompressionError(
            f"the tokenizer gives the id {highest:,} on the calibration text, and {type(model).__name__} has embeddings "
            f"for {len(table):,} tokens; use the tokenizer that the model was trained with"
        )
    for table in _position_tables(model):
        if input_ids.shape[1] > table.num_embeddings:
            raise _too_long(model, input_ids.shape[1], table.num_embeddings)


def text_limit(model: nn.Module) -> int | None:
    """The longest text that a model takes, in tokens, None where it sets no limit.

    That is what its configuration says, and what its tables of positions have rows for: some begin after the row of
    the padding token (RoBERTa).
    """
    limit = getattr(_text_config(model), "max_position_embeddings", None)
    limits = [limit] if isinstance(limit, int) and limit > 1 else []
    for table in _position_tables(model):
        first = 0 if table.padding_idx is None else table.padding_idx + 1
        limits.append(table.num_embeddings - first)
    return min(limits, default=None)


def _position_tables(model: nn.Module) -> Iterator[nn.Embedding]:
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("pos" in last or last == "wpe"):
            yield module


def _too_long(model: nn.Module, length: int, limit: int) -> CompressionError:
    return CompressionError(
        f"a calibration text has {length:,} tokens, and {type(model).__name__} has {limit:,} positions; cut texts there "
        f"(--calibration-tokens {limit}, or tokens={limit} in the step)"
    )


def _text_config(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


@contextmanager
def _replaced_forwards(
    decoder: DecoderBlocks, recorder: Callable[[int, nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    own = [block.__dict__.get("forward") for block in decoder.modules]
    try:
        for index, block in enumerate(decoder.modules):
            block.__dict__["forward"] = recorder(index, block)
        yield
    finally:
        for block, forward in zip(decoder.modules, own, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.__dict__["forward"] = forward


def run_block(block: nn.Module, hidden: torch.Tensor, call: Call) -> torch.Tensor:
    """One block on hidden states [B, S, H], called as the model calls it.

    Raises `CompressionError` where products fail because weights are stored in several floating types.
    """
    if call.whole is not None:
        call.whole()
        return hidden
    if call.skipped:
        return hidden
    try:
        out = block(hidden, *call.args, **call.kwargs)
    except RuntimeError as error:
        types = _types(block, [hidden])
        if not types or isinstance(error, torch.OutOfMemoryError):
            raise
        raise _mixed_types(types) from error
    result: torch.Tensor = out if torch.is_tensor(out) else out[0]
    return result


def _types(block: nn.Module, states: Sequence[torch.Tensor]) -> list[str]:
    """The floating types of a block's matrices and of states that enter it, where they are several."""
    values = [*states, *(p for p in block.parameters() if p.dim() >= 2)]
    types = {str(v.dtype).removeprefix("torch.") for v in values if v.is_floating_point()}
    return sorted(types) if len(types) > 1 else []


def _mixed_types(types: Sequence[str]) -> RefusedError:
    wide = "float32" if "float32" in types or {"bfloat16", "float16"} <= set(types) else types[0]
    return RefusedError(
        f"the weights are stored in several types ({', '.join(types)}) that can't be multiplied with each other; name one "
        f"for all of them (--dtype {wide})"
    )


class Interner:
    """Keeps one copy of equal tensors: the same masks and position embeddings come with every batch."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        """The value with every tensor in it replaced by the kept equal one."""
        if torch.is_tensor(value):
            kept = self._kept.setdefault((value.dtype, value.device, *value.shape), [])
            for tensor in kept:
                if tensor is value or torch.equal(tensor, value):
                    return tensor
            kept.append(value)
            return value
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self, value))
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return value


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Linear | Conv1D) for child in module.modules())
