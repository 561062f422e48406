"""`anomia prune`: from one model folder to another, one block in memory at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from anomia.compress.allocation import allocation_of, spread_sparsity
from anomia.compress.apply import (
    Progress,
    check_target,
    compress,
    prepare_windows,
    versions,
    warnings_of,
)
from anomia.compress.blocks import Call, DecoderBlocks, all_matrices, find_blocks, left_dense
from anomia.compress.calibration import Batch, Windows
from anomia.compress.disk_states import DiskStates
from anomia.compress.model_card import write_card
from anomia.compress.perplexity import Perplexity, perplexity
from anomia.compress.prune import METHODS, prune_groups
from anomia.compress.report import CompressionReport, MatrixReport, megabytes
from anomia.compress.shards import (
    Checkpoint,
    empty,
    fill,
    match_names,
    open_checkpoint,
    write_index,
    write_shard,
)
from anomia.compress.size import files_bytes
from anomia.compress.spec import Pattern, Prune
from anomia.compress.statistics import Group, Needs, observe
from anomia.compress.verify import PRUNE_AGAIN, check_block, check_zeros
from anomia.compress.walk import BATCH_TOKENS, advance, calibrating, enter, make_model_batches
from anomia.errors import CompressionError, ModelError, StudyError, nearest
from anomia.files import read_json, write_json
from anomia.models.examine import Examined, examine, look_up, read_tokenizer
from anomia.models.explain import explain
from anomia.models.files import ModelFiles
from anomia.models.load import DTYPES, load_model, quiet_transformers, resolve_device
from anomia.models.tensors import skeleton
from anomia.text_files import read_text

UNFINISHED = ".anomia-unfinished"
# What a model computes with besides its weights.
_SETTINGS = ("config.json", "tokenizer.json")
_PIECE, _PIECES = 64 * 1024, 64
REPORT = "anomia.json"
_WHOLE_SHARD = 256 * 2**20
# Where transformers keeps chat templates that have names.
_TEMPLATES = "additional_chat_templates"
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py"]


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What `prune_folder` did. streamed: block by block from the files; False where the whole model was loaded.

    dense, pruned: perplexities, if asked for. resumed_at: blocks that an earlier run had finished.
    """

    out: Path
    compression: CompressionReport
    streamed: bool
    resumed_at: int
    seconds: float
    dense: Perplexity | None = None
    pruned: Perplexity | None = None


@quiet_transformers()
def prune_folder(
    model: str,
    out: Path,
    step: Prune,
    *,
    calibration: str = "c4",
    samples: int | None = None,
    tokens: int = 2048,
    budget: int | None = None,
    languages: Sequence[str] = (),
    language: str | None = None,
    data_dir: Path | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    perplexity_text: Path | None = None,
    perplexity_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> FolderReport:
    """Prune a model into a new Hugging Face folder, holding one block and no more.

    The calibration activations lie on disk. A run that was interrupted is continued by the same call, after
    the last finished block. Where the stored tensors don't correspond to the model's one by one (GGUF, a
    mixture whose experts are fused while loading) or the method needs gradients, the whole model is loaded.

    Args:
        model: hub id, folder or GGUF file. out: a folder that doesn't exist, is empty, or is unfinished.
        step: what to do, as `parse_arm` reads it. The next six are as in `prepare_windows`.
        dtype: `auto` keeps the stored type.
        device: where the block in work is computed: `cpu`, `cuda`, `mps` or `auto`.
        perplexity_text: a text file on which dense and pruned model are compared, `perplexity_tokens` of it.
        progress: called with (blocks done, all blocks).

    Raises:
        AnomiaError: one message for each thing that can be wrong; finished blocks stay usable.
    """
    started = time.perf_counter()
    if dtype not in ("auto", *DTYPES):
        raise StudyError(f"unknown dtype {dtype!r}; {nearest(dtype, ('auto', *DTYPES))}")
    place = torch.device(resolve_device(device))
    text = None if perplexity_text is None else read_text(perplexity_text, about="the text for perplexity")
    found = examine(model)
    if getattr(found.config, "quantization_config", None) is not None:
        raise CompressionError(f"{model} is already quantized; prune its dense checkpoint")
    source = _fetched(model, found.files)
    tokenizer = None if found.files.gguf else read_tokenizer(model, found.files)
    settings = {"model": str(model), "step": str(step), "dtype": dtype, "calibration": calibration,
                "samples": samples, "tokens": tokens, "budget": budget, "languages": list(languages),
                "language": language, "batch_tokens": batch_tokens, "device": place.type}  # fmt: skip
    state = _open_out(out, settings)
    plan = _plan(found, source, dtype, place) if source is not None and step.method != "prunerzero" else None
    loaded = None
    if plan is None:
        loaded = load_model(model, dtype=dtype, device=place.type)
        tokenizer = loaded.tokenizer
    windows = prepare_windows(
        step,
        tokenizer,
        calibration=calibration,
        samples=samples,
        tokens=tokens,
        budget=budget,
        languages=languages,
        language=language,
        data_dir=data_dir,
    )
    resumed = 0
    if plan is not None:
        _check_inputs(out, state, found.files, windows)
        resumed = len(state["matrices"])
        report = _stream(plan, out, step, windows, state, batch_tokens, progress)
    else:
        assert loaded is not None
        report = compress(loaded.model, step, windows, progress=progress, batch_tokens=batch_tokens)
        _save_whole(loaded.model, tokenizer, out)
    notes = loaded.notes if loaded else found.notes
    del loaded
    if plan is not None:
        _check_written(plan, out, report.matrices)
    else:
        check_zeros(out, find_blocks(load_model(str(out), device="cpu").model), report.matrices)
    warnings = (*notes, *report.warnings)
    size, before = files_bytes(str(out)), files_bytes(model)
    if source is None and size and before:
        warnings += (
            f"the weights of {Path(model).name} ({megabytes(before)}) are unpacked: {megabytes(size)}",
        )
    report = replace(report, size_bytes=size, warnings=warnings)
    dense = pruned = None
    if text is not None:
        dense, pruned = (_measure(name, dtype, place, text, perplexity_tokens) for name in (model, str(out)))
    result = FolderReport(
        out, report, plan is not None, resumed, time.perf_counter() - started, dense=dense, pruned=pruned
    )
    write_json(out / REPORT, {"settings": settings, **_plain(result)})
    write_card(out, model, result.compression, dense, pruned)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return result


@dataclass(frozen=True, slots=True)
class _Plan:
    """A model without its weights, and where they are.

    block_names, outer_names: model name to stored name. tied: of the head, where it is the embedding.
    """

    model: Any
    decoder: DecoderBlocks
    checkpoint: Checkpoint
    block_names: tuple[dict[str, str], ...]
    outer_names: dict[str, str]
    tied: frozenset[str]
    dtype: torch.dtype | None
    device: torch.device


def _plan(found: Examined, source: Path, dtype: str, device: torch.device) -> _Plan | None:
    if found.account is None:
        return None
    checkpoint = Checkpoint(source, found.stored)
    places = found.account.places
    wanted = DTYPES.get(dtype)
    model = skeleton(found.config, dtype=wanted or checkpoint.stored_dtype(checkpoint.tensors))
    decoder = find_blocks(model)
    blocks = [match_names(model, places, f"{decoder.name}.{i}.") for i in range(len(decoder.modules))]
    if any(names is None for names in blocks):
        return None
    head = model.get_output_embeddings()
    heads = {f"{n}.{leaf}" for n, m in model.named_modules() if m is head for leaf in ("weight", "bias")}
    outer = {}
    for name in model.state_dict():
        if name.startswith(f"{decoder.name}.") or name in heads:
            continue
        if name not in places:
            return None
        outer[name] = places[name]
    tied = frozenset(heads) if getattr(found.config, "tie_word_embeddings", False) else frozenset()
    block_names = tuple(names or {} for names in blocks)
    return _Plan(model, decoder, checkpoint, block_names, outer, tied, wanted, device)


def _stream(
    plan: _Plan,
    out: Path,
    step: Prune,
    windows: Windows | None,
    state: dict[str, Any],
    batch_tokens: int,
    progress: Progress | None,
) -> CompressionReport:
    started = time.perf_counter()
    check_target(plan.decoder, step.target)
    scratch = out / UNFINISHED
    count = len(plan.decoder.modules)
    method = METHODS[step.method]
    batches: list[Batch] = []
    calls: list[list[Call]] = [[] for _ in range(count)]
    states: DiskStates | None = None
    with ExitStack() as stack:
        if windows is not None:
            stack.enter_context(calibrating(plan.model, plan.device))
            needs = _all_needs(step)
            batches = make_model_batches(plan.decoder, windows, needs, batch_tokens=batch_tokens)
            states, calls = _enter(plan, batches, scratch, resumed=bool(state["matrices"]))
        _check_room(plan, out, states)
        sparsities = state["sparsities"]
        allocation = allocation_of(step)
        if allocation and not sparsities and not isinstance(step.target, Pattern):
            assert states is not None
            dense = _dense_walk(plan, batches, calls, states, allocation.needs)
            sparsities = spread_sparsity([allocation.importance(groups) for groups in dense], step.target)
            state["sparsities"] = sparsities
            write_json(scratch / "state.json", state)
        for index in range(len(state["matrices"]), count):
            with _block_in_memory(plan, index) as (block, where):
                if method.needs is None:
                    groups = [Group((matrix,), None) for matrix in all_matrices(block, where)]
                else:
                    assert states is not None
                    states.at = index
                    groups = observe(block, batches, states.read, calls[index], method.needs, where=where)
                target = sparsities[index] if sparsities else step.target
                reports = prune_groups(step.method, groups, target, where=where)
                del groups
                _write_block(plan, out, index)
                if states is not None and method.needs is not None and index + 1 < count:
                    advance(block, states, calls[index])
            state["matrices"].append([list(report) for report in reports])
            write_json(scratch / "state.json", state)
            if progress is not None:
                progress(index + 1, count)
    _write_rest(plan, out)
    matrices = tuple(MatrixReport(*entry) for block in state["matrices"] for entry in block)
    matrices = tuple(matrix._replace(shape=(matrix.shape[0], matrix.shape[1])) for matrix in matrices)
    return CompressionReport(
        step=str(step),
        matrices=matrices,
        seconds=time.perf_counter() - started,
        calibration=None if windows is None else windows.record,
        block_sparsity=tuple(sparsities),
        left_dense=tuple(name for name in left_dense(plan.model, plan.decoder) if name not in plan.tied),
        reconstruction=method.choices,
        warnings=warnings_of(step, windows, matrices),
        versions=versions(),
    )


def _enter(
    plan: _Plan, batches: Sequence[Batch], scratch: Path, *, resumed: bool
) -> tuple[DiskStates, list[list[Call]]]:
    """Run what comes before the blocks, with the first block in memory for its way of returning."""
    unsaved = {name: value for name, value in plan.model.named_buffers() if not value.is_meta}
    for values in (unsaved, _read(plan, plan.outer_names), _read(plan, plan.block_names[0])):
        fill(plan.model, values, device=plan.device)
    states = DiskStates(scratch, device=plan.device)
    try:
        calls = enter(plan.model, plan.decoder, batches, states.describe if resumed else states.keep)
    finally:
        empty(plan.model)
    return states, calls


def _dense_walk(
    plan: _Plan, batches: Sequence[Batch], calls: list[list[Call]], states: DiskStates, needs: Needs
) -> Iterator[list[Group]]:
    """The statistics of every block of the dense model."""
    dense = states.copy("dense")
    for index in range(len(plan.decoder.modules)):
        with _block_in_memory(plan, index) as (block, where):
            dense.at = index
            yield observe(block, batches, dense.read, calls[index], needs, where=where)
            if index + 1 < len(plan.decoder.modules):
                advance(block, dense, calls[index])
    dense.remove()


@contextmanager
def _block_in_memory(plan: _Plan, index: int) -> Iterator[tuple[Any, str]]:
    block = plan.decoder.modules[index]
    fill(plan.model, _read(plan, plan.block_names[index]), device=plan.device)
    try:
        yield block, f"{plan.decoder.name}.{index}"
    finally:
        empty(block)


def _read(plan: _Plan, names: dict[str, str]) -> dict[str, torch.Tensor]:
    stored = plan.checkpoint.read(names.values(), dtype=plan.dtype)
    return {name: stored[place] for name, place in names.items()}


def _write_block(plan: _Plan, out: Path, index: int) -> None:
    names = plan.block_names[index]
    prefix = f"{plan.decoder.name}.{index}."
    values = plan.decoder.modules[index].state_dict()
    write_shard(out / _shard(index), {names[prefix + name]: value for name, value in values.items()})


def _write_rest(plan: _Plan, out: Path) -> None:
    """Everything outside the blocks, bit for bit, then the index and the small files."""
    places = {stored: _shard(i) for i, names in enumerate(plan.block_names) for stored in names.values()}
    pending: list[str] = []
    number = len(plan.block_names)

    def flush() -> None:
        nonlocal number
        if pending:
            write_shard(out / _shard(number), plan.checkpoint.read(pending, dtype=plan.dtype))
            places.update(dict.fromkeys(pending, _shard(number)))
            number += 1
            pending.clear()

    for name, info in plan.checkpoint.tensors.items():
        if name not in places:
            if sum(plan.checkpoint.tensors[n].bytes for n in pending) + info.bytes > _WHOLE_SHARD:
                flush()
            pending.append(name)
    flush()
    total = sum((out / file).stat().st_size for file in set(places.values()))
    write_index(out, places, total)
    copy_small_files(plan.checkpoint.folder, out)
    config = read_json(out / "config.json") or {}
    # The weights go by the names that are read without being named.
    changed = {key: value for key, value in config.items() if key != "transformers_weights"}
    if plan.dtype is not None:
        changed["dtype"] = str(plan.dtype).removeprefix("torch.")
    if changed != config:
        write_json(out / "config.json", changed)


def _check_written(plan: _Plan, out: Path, matrices: Sequence[MatrixReport]) -> None:
    """Read every written block once more, a block in memory, and see that the folder is a whole model."""
    written = replace(plan, checkpoint=open_checkpoint(out), dtype=None, device=torch.device("cpu"))
    for name, info in plan.checkpoint.tensors.items():
        found = written.checkpoint.tensors.get(name)
        if found is None or found.shape != info.shape:
            raise CompressionError(f"{out}: the tensor {name} is not what was written; {PRUNE_AGAIN}")
    expected = {matrix.name: matrix for matrix in matrices}
    for index in range(len(plan.decoder.modules)):
        with _block_in_memory(written, index) as (block, where):
            check_block(out, block, where, expected)
    read_tokenizer(str(out), look_up(str(out)))


def copy_small_files(source: Path, out: Path) -> None:
    """Configuration, tokenizer, chat templates and generation settings, as they are."""
    for file in sorted([*source.iterdir(), *source.glob(f"{_TEMPLATES}/*.jinja")]):
        wanted = f"*{file.suffix}" in _SMALL
        if file.is_file() and wanted and not file.name.endswith(".index.json") and file.name != REPORT:
            place = out / file.relative_to(source)
            try:
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
            except OSError as error:
                raise CompressionError(
                    f"{place} can't be written ({error.strerror}); make room, then run the same command"
                    " again: it continues after the last finished block"
                ) from None


def _save_whole(model: Any, tokenizer: Any, out: Path) -> None:
    try:
        with quiet_transformers():
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CompressionError(
            f"{out} can't be written ({error}); make room or choose another folder, then run the same command again"
        ) from None
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)


def _fetched(model: str, files: ModelFiles) -> Path | None:
    """The folder with the weights and all small files; `None` where the whole model must be loaded (GGUF)."""
    if not files.weights or Path(files.source).is_dir():
        return files.folder if files.weights else None
    from huggingface_hub import snapshot_download

    folder = files.weights[0].parent
    try:
        # In the hub's cache, a folder is named by its commit.
        return Path(snapshot_download(model, revision=folder.name, allow_patterns=_SMALL))
    except Exception as error:
        raise ModelError(explain(model, error, folder=folder)) from None


def _open_out(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state of an unfinished run with the same settings, or a fresh one in an empty folder."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    fresh: dict[str, Any] = {"key": key, "sparsities": [], "matrices": []}
    state_file = out / UNFINISHED / "state.json"
    try:
        there = out.exists() and any(out.iterdir())
    except NotADirectoryError:
        raise CompressionError(f"{out} is a file; choose a folder that doesn't exist yet") from None
    if there:
        if not (out / UNFINISHED).is_dir():
            raise CompressionError(f"{out} is not empty; choose a folder that doesn't exist yet")
        state = read_json(state_file) or fresh
        if state["key"] != key:
            raise CompressionError(
                f"{out} holds an unfinished prune with other settings; repeat that command, or remove the folder"
            )
        return state
    try:
        (out / UNFINISHED).mkdir(parents=True)
    except OSError as error:
        raise CompressionError(f"{out} can't be written: {error.strerror}; choose another folder") from None
    return fresh


def _check_inputs(out: Path, state: dict[str, Any], files: ModelFiles, windows: Windows | None) -> None:
    """Refuses to go on with blocks that were pruned of another model or by another text; notes both in a fresh state."""
    now = {
        "model": _content_hash([*files.weights, *_settings_of(files)]),
        "calibration text": None if windows is None else windows.record.token_hash,
    }
    before = state.setdefault("inputs", now)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed and state["matrices"]:
        raise CompressionError(
            f"{out} holds an unfinished prune with another {' and another '.join(changed)}: what lies under the same path "
            "has changed since; restore it, or remove the folder"
        )
    state["inputs"] = now


def _settings_of(files: ModelFiles) -> list[Path]:
    return (
        []
        if files.folder is None
        else [file for name in _SETTINGS if (file := files.folder / name).is_file()]
    )


def _content_hash(files: Sequence[Path]) -> str:
    """A hash of the sizes of some files and of 64 pieces of each, the first and the last among them."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for number in range(_PIECES):
                file.seek(max(0, size - _PIECE) * number // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _check_room(plan: _Plan, out: Path, states: DiskStates | None) -> None:
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    needed = plan.checkpoint.bytes + (states.bytes if states else 0) - written
    free = shutil.disk_usage(out).free
    if free < needed:
        raise CompressionError(
            f"{out} has {megabytes(free)} free where {megabytes(needed)} are needed; make room or choose"
            " another folder"
        )


def _all_needs(step: Prune) -> Needs:
    method, allocation = METHODS[step.method].needs, allocation_of(step)
    asked = [needs for needs in (method, allocation.needs if allocation else None) if needs is not None]
    return Needs(any(needs.hessian for needs in asked), any(needs.languages for needs in asked))


def _measure(model: str, dtype: str, device: torch.device, text: str, tokens: int | None) -> Perplexity:
    loaded = load_model(model, dtype=dtype, device=device.type)
    return perplexity(loaded.model, loaded.tokenizer, text, max_tokens=tokens)


def _plain(result: FolderReport) -> dict[str, Any]:
    return {
        "compression": result.compression.to_dict(),
        "streamed": result.streamed,
        "resumed_at": result.resumed_at,
        "seconds": result.seconds,
        "perplexity": {
            name: value._asdict()
            for name, value in (("dense", result.dense), ("pruned", result.pruned))
            if value is not None
        },
    }


def _shard(number: int) -> str:
    return f"model-{number + 1:05d}.safetensors"
