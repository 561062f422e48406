"""Find the decoder blocks of a model and their weight matrices by inspecting modules, not by a table of names."""

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

# Enough tokens that every layer chooses at least one expert.
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
    """The repeated blocks of a decoder.

    name: their path in the model, such as `model.layers`.
    paths: the path of each block, if the model has several lists of blocks (HRM has two stacks); else empty.
    padded: whether padding after a text leaves its states unchanged, so texts of unequal length can share a batch.
    fault: why the blocks can't be run one after the other outside the model; empty if they can.
    """

    name: str
    modules: tuple[nn.Module, ...]
    paths: tuple[str, ...] = ()
    padded: bool = True
    fault: str = ""

    def path(self, index: int) -> str:
        """Return the path of a block in the model."""
        return self.paths[index] if self.paths else f"{self.name}.{index}"


class WeightMatrix(NamedTuple):
    """One weight matrix of a block.

    name: path in the block, followed by `[index]` for an expert's slice of a fused parameter.
    weight: [out, in], a view: writing to it changes the model.
    """

    name: str
    weight: torch.Tensor


class FusedExperts(NamedTuple):
    """A parameter that holds several matrices, one per expert or head.

    parameter: [E, out, in], or [E, in, out] if `transposed`.
    """

    name: str
    parameter: nn.Parameter
    transposed: bool

    def matrices(self) -> list[WeightMatrix]:
        """Return one [out, in] view per expert."""
        slices = (part.T if self.transposed else part for part in self.parameter.data)
        return [WeightMatrix(f"{self.name}[{index}]", part) for index, part in enumerate(slices)]


class Call(NamedTuple):
    """The arguments of a block besides the hidden states (masks, position embeddings, …).

    skipped: the model doesn't call the block (a cross-attention block for images when there is no image).
    whole: runs a forward pass of the whole model, if the block can't be run by itself.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    skipped: bool = False
    whole: Callable[[], Any] | None = None


class _RecordedError(Exception):
    """Raised to end a forward pass once the calls of all blocks are known."""


def find_blocks(model: nn.Module) -> DecoderBlocks:
    """Find the decoder blocks: the outermost lists of modules with linear layers in the text decoder.

    Lists in a part with its own configuration (a vision or audio tower) are ignored. Several lists are concatenated in
    the model's order.

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


# Block attribute: names of the parameters shared with an earlier block (Zamba's attention), which are compressed there.
_SHARED = "_anomia_shared"


def _mark_shared(blocks: Sequence[nn.Module]) -> None:
    seen: set[int] = set()
    for block in blocks:
        mine = dict(block.named_parameters(remove_duplicate=False))
        block.__dict__[_SHARED] = {name for name, parameter in mine.items() if id(parameter) in seen}
        seen |= {id(parameter) for parameter in mine.values()}


def shares_matrices(block: nn.Module) -> bool:
    """Whether a block shares matrices with an earlier block."""
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
    """Whether a part is a model whose configuration differs in type from the whole model's and the text decoder's."""
    whole, own = getattr(model, "config", None), getattr(module, "config", None)
    if not isinstance(module, PreTrainedModel) or whole is None or own is None:
        return False
    return type(own) is not type(whole) and type(own) is not type(whole.get_text_config())


def find_matrices(block: nn.Module, *, where: str) -> list[WeightMatrix]:
    """Return every `Linear` and `Conv1D` of a block as an [out, in] view, in the block's order, without routers.

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
    """Yield the layers of a block to compress: all but routers and layers that gate a whole expert."""
    experts = _experts(block)
    shared = block.__dict__.get(_SHARED, ())
    for name, module in block.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or f"{name}.weight" in shared:
            continue
        if not _selects(block, name, module, experts):
            yield name, module


def _experts(block: nn.Module) -> dict[str, int]:
    """Return the number of experts by the path of the module that holds them."""
    return {name: count for name, module in block.named_modules() if (count := _experts_in(module))}


def _selects(block: nn.Module, name: str, module: Any, experts: Mapping[str, int]) -> bool:
    """Whether a layer computes a choice, not a state: it has one output, or one per expert in its parent module.

    A layer with that many outputs that a sibling layer reads is not a router (the first matrix of a shared expert of
    the same width). If the block itself holds the experts, or the choice isn't among experts, the layer's name must
    contain `router`. A layer that feeds only a router is part of it (`down_proj` before Zaya's `router_mlp`).
    """
    rows = int(module.weight.shape[1 if isinstance(module, Conv1D) else 0])
    return rows == 1 or _chooses(block, name, rows, experts) or _feeds_router(block, name, experts)


def _chooses(block: nn.Module, name: str, rows: int, experts: Mapping[str, int]) -> bool:
    """Whether a layer is named a router, or has one output per expert next to it."""
    if any("router" in part for part in name.split(".")):
        return True
    among = any(
        path and rows == count and name.startswith(f"{path}.") and not _is_inside(block, name, path)
        for path, count in experts.items()
    )
    return among and not _is_read_beside(block, name, rows)


def _feeds_router(block: nn.Module, name: str, experts: Mapping[str, int]) -> bool:
    """Whether a layer shares a submodule with a router: one next to the experts that holds no experts itself.

    The only output of such a submodule is the choice of experts.
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
    """Whether a sibling layer has the transposed shape, or takes this layer's `rows` outputs as input."""
    parent, _, own = name.rpartition(".")
    mine = block.get_submodule(name)
    for other, module in block.get_submodule(parent).named_children():
        if other != own and isinstance(module, nn.Linear | Conv1D):
            there, here = _sizes(module), _sizes(mine)
            if there[0] > 1 and (there == here[::-1] or (there[1] == rows and there[0] != rows)):
                return True
    return False


def _sizes(module: Any) -> tuple[int, int]:
    """Return a layer's (out, in)."""
    rows, columns = module.weight.shape
    return (int(columns), int(rows)) if isinstance(module, Conv1D) else (int(rows), int(columns))


def _is_inside(block: nn.Module, name: str, path: str) -> bool:
    """Whether a layer is part of an expert: in a `ModuleList` below `path`, like `mlp.experts.3.up_proj`.

    An `nn.Sequential` isn't a list of experts: a gate can be one.
    """
    module = block.get_submodule(path)
    for part in name[len(path) + 1 :].split("."):
        if isinstance(module, nn.ModuleList):
            return True
        module = getattr(module, part)
    return False


def _experts_in(module: nn.Module) -> int:
    """Count the experts among a module's children and grandchildren (a list or fused parameters); 0 if none."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1 and all(map(_has_linear, child)):
            return len(child)
        fused = [p for n, p in child.named_parameters(recurse=False) if _orientation(child, n, p) is not None]
        if fused and len(fused[0]) > 1:
            return len(fused[0])
    return 0


def has_experts(block: nn.Module) -> bool:
    """Whether a block routes tokens to experts."""
    return bool(_experts(block)) or any("expert" in name.lower() for name, _ in block.named_modules())


def find_fused_experts(block: nn.Module, *, where: str) -> list[FusedExperts]:
    """Find parameters that hold one matrix per expert (`experts.gate_up_proj` of Mixtral and Qwen3-MoE) or head.

    Raises `CompressionError` for a stack of matrices whose orientation is neither declared by `transformers` nor seen
    in the trial pass.
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


# Module attribute: result of the trial pass by parameter name. True: multiplied as [E, in, out]; None: in no product.
_SEEN = "_anomia_orientations"


def _orientation(module: nn.Module, name: str, parameter: nn.Parameter) -> bool | None:
    """Whether a parameter is a stack of [in, out] matrices (True) or [out, in] matrices (False); None if neither."""
    if parameter.dim() != 3:
        return None
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return declared if min(parameter.shape[1:]) > 1 else None
    seen: bool | None = module.__dict__.get(_SEEN, {}).get(name)
    return seen


def _stacks(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Yield parameters that may be stacks of matrices: module path, module, parameter name, parameter [E, ., .]."""
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
    """Find the orientation of undeclared stacks of matrices, and store it in their modules.

    Runs a few tokens through the model, or through a tiny model of the same architecture if the weights aren't loaded.
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
    """Return by class and name whether a stack is multiplied as [E, in, out]; None if it is in no product.

    Stacks multiplied in another shape or in both orientations are left out.
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
    """Return every matrix of a block that is compressed, with one entry per expert of a fused parameter."""
    matrices = find_matrices(block, where=where)
    for fused in find_fused_experts(block, where=where):
        matrices += fused.matrices()
    return matrices


def block_weights(decoder: DecoderBlocks) -> int:
    """Count the weights in the matrices of all blocks."""
    return sum(
        matrix.weight.numel()
        for index, block in enumerate(decoder.modules)
        for matrix in all_matrices(block, decoder.path(index))
    )


def left_dense(model: nn.Module, decoder: DecoderBlocks) -> list[str]:
    """Return the names of the weights of two or more dimensions that stay dense."""
    return list(why_dense(model, decoder))


def why_dense(model: nn.Module, decoder: DecoderBlocks) -> dict[str, str]:
    """Return the weights of two or more dimensions that stay dense, each with its reason (one of `REASONS`)."""
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
    """Return the reason (one of `REASONS`) why a weight of two or more dimensions stays dense.

    parameter: only its number of rows is read; a router's has the shape [experts, ...].
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
    """Whether a parameter outside of a layer is a router's, by its name or its shape [experts, ...]."""
    path = name.rpartition(".")[0]
    if any("router" in part or part == "gate" for part in path.split(".")):
        return True
    if any(
        _orientation(block.get_submodule(path), n, p) is not None for n, p in _own_parameters(block, path)
    ):
        # A state in the same module as a stack of matrices that it multiplies (Zamba's Mamba heads).
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
    """Record how the model calls each block on `input_ids` [B, S], at the cost of one block.

    Only the first block runs; every block returns its input, and the model's own code computes the masks and position
    embeddings. Returns the input of the first block, [B, S, H], and one call per block.

    Raises `CompressionError` if the model doesn't call its blocks once each and in order, or if a token id or a text's
    length is out of range.
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
    """Refuse token ids without an embedding, and texts longer than a position embedding table. input_ids: [B, S].

    On a GPU, an index past the end of a table kills the process.
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
    """Return the longest text that a model takes, in tokens; None if there is no limit.

    The limit is the smaller of `max_position_embeddings` and the usable rows of the position embedding tables. In some
    tables (RoBERTa) positions start after the row of the padding token.
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
    """Run one block on hidden states [B, S, H], called as the model calls it; returns [B, S, H].

    Raises `CompressionError` if the weights have several floating-point types that can't be multiplied.
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
    """Return the floating-point types of a block's matrices and input states; empty if there is only one."""
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
    """Keeps one copy of equal tensors, since masks and position embeddings repeat in every batch."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        """Return the value with each tensor in it replaced by the stored equal tensor."""
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
