"""Compress a model into a new folder (prune, reshape or quantize), with one block in memory at a time."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from anomia._version import __version__
from anomia.compress.apply import check_steps, compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import Windows
from anomia.compress.calls import text_limit
from anomia.compress.in_files import REPORT, SMALL
from anomia.compress.kept import keep_dense
from anomia.compress.lock import LOCK, only_writer
from anomia.compress.merged import base_of, examine_merged, files_of
from anomia.compress.methods.grid import Quantized
from anomia.compress.model_card import write_card
from anomia.compress.options import FolderOptions
from anomia.compress.outputs import check_folder, check_outputs
from anomia.compress.packed import check_save_as, leave_out, notes_on
from anomia.compress.packed_whole import pack_folder, plan_whole
from anomia.compress.perplexity import Perplexity, check_text, perplexity
from anomia.compress.pipeline import OnProgress
from anomia.compress.report import CompressionReport, megabytes
from anomia.compress.shards import check_finite
from anomia.compress.size import files_bytes
from anomia.compress.steps import Checkpoint, Embeddings, Null, Quantize, Served, Step, needs_calibration
from anomia.compress.streamed import open_streamed
from anomia.compress.verify import check_saved
from anomia.compress.written import check_written, content_hash
from anomia.errors import AnomiaError, CompressionError, ModelError, RefusedError, StudyError, nearest
from anomia.files import read_json, write_json
from anomia.models.adapters import find_adapter
from anomia.models.examine import Examined, examine, look_up, read_tokenizer
from anomia.models.explain import explain
from anomia.models.files import ModelFiles
from anomia.models.load import (
    DTYPES,
    LoadedModel,
    load_model,
    load_tokenizer,
    quiet_transformers,
    resolve_device,
)
from anomia.models.tensors import account, skeleton
from anomia.text_files import read_text

UNFINISHED = ".anomia-unfinished"
# Paths may change between calls, and the contents of files are compared separately.
_NOT_IN_SETTINGS = ("data_dir", "evaluation_passages", "perplexity_text", "perplexity_tokens")


@dataclass(frozen=True, slots=True)
class FolderReport:
    """The report of `compress_folder`.

    steps: the reports of all steps, in order. streamed: whether the last step read and wrote the files block by block;
    False if the whole model was loaded. resumed_at: blocks of the last step that an earlier call had finished (for a
    reshaping: measured; for `embeddings`: shards). dense, compressed: perplexities, if requested.
    """

    out: Path
    steps: tuple[CompressionReport, ...]
    streamed: bool
    resumed_at: int
    seconds: float
    dense: Perplexity | None = None
    compressed: Perplexity | None = None

    @property
    def compression(self) -> CompressionReport:
        """The report of the last step."""
        return self.steps[-1]


@quiet_transformers()
def compress_folder(
    model: str,
    out: Path,
    steps: Sequence[Step],
    options: FolderOptions = FolderOptions(),
    *,
    progress: OnProgress | None = None,
) -> FolderReport:
    """Compress a model into a new Hugging Face folder, with one block in memory at a time.

    The calibration activations are kept on disk. Repeating an interrupted call resumes it after the last finished
    block. The whole model is loaded if its stored tensors don't match the model's one to one (GGUF, a mixture whose
    experts are fused while loading), if the method needs gradients, or if it rotates the states (`slicegpt`).

    Args:
        model: hub id, folder or GGUF file.
        out: a folder that doesn't exist, is empty, or is unfinished.
        steps: the steps in order, as `parse_arm` returns them; settings of a step override the options.
        options: settings of the whole call.
        progress: called with (blocks done, all blocks), for each step.

    Raises:
        AnomiaError: something is wrong with the model, the options or the disk; finished blocks stay usable.
    """
    started = time.perf_counter()
    if options.dtype not in ("auto", *DTYPES):
        raise StudyError(f"unknown dtype {options.dtype!r}; {nearest(options.dtype, ('auto', *DTYPES))}")
    for step in steps:
        if isinstance(step, Checkpoint | Null | Served):
            raise StudyError(f"{step} is a complete model; give it as MODEL")
    if not steps:
        raise StudyError("base has no step, so there is nothing to do; name one such as wanda:0.5")
    check_save_as(options.save_as, steps)
    if options.save_as == "gptq" and options.dense:
        raise StudyError(
            "dense: GPTQ checkpoints name the packed matrices once for all blocks, so single ones can't stay dense; use "
            "--save-as compressed-tensors"
        )
    options = replace(options, device=resolve_device(options.device))
    file = options.perplexity_text
    text = None if file is None else read_text(file, about="the text for perplexity")
    found = _examine(model)
    if found.account is not None:
        empty = skeleton(found.config)
        keep_dense(empty, options.dense)
        check_steps(empty, steps)
    if text is not None and not text.strip():
        raise StudyError(f"{file} is empty; give a text on which the models can be compared")
    if text is not None:
        check_text(load_tokenizer(model)[0], text, max_tokens=options.perplexity_tokens)
    with _nothing_left_behind(out):
        return _all_steps(model, found, out, steps, options, text, progress, started)


def _all_steps(
    model: str,
    found: Examined,
    out: Path,
    steps: Sequence[Step],
    options: FolderOptions,
    text: str | None,
    progress: OnProgress | None,
    started: float,
) -> FolderReport:
    settings = _plain_settings(model, steps, options)
    state = _open_out(out, settings)
    # Packed codes can't be compressed again, but `embeddings` leaves them alone.
    unpacked = replace(options, save_as="dense")
    current, done, origin = model, [], files_of(found.files)
    for number, step in enumerate(steps[:-1], 1):
        between = out / UNFINISHED / f"step-{number}"
        mine = options if isinstance(steps[number], Embeddings) else unpacked
        report = CompressionReport.from_dict(read_json(between / REPORT) or {}) if _is_done(between) else None
        inputs = read_json(out / UNFINISHED / f"inputs-{number}.json") or {}
        windows = None
        if report is not None:
            tokenizer = read_tokenizer(str(between), look_up(str(between)))
            windows = _windows(step, tokenizer, skeleton(found.config), options)
        # Check the model and text of a finished step, too.
        _check_inputs(out, inputs, windows, model=origin, finished=report is not None)
        if report is not None:
            check_written(between, files_of(_examine_step(between).files), inputs.get("result"), out)
        if report is None:
            kept = _open_out(between, _plain_settings(current, [step], mine))
            report, _, _ = _one_step(current, found, between, step, mine, kept, progress)
            record = report.calibration
            inputs["inputs"]["calibration text"] = None if record is None else record.token_hash
            inputs["result"] = content_hash(files_of(_examine_step(between).files))
            write_json(out / UNFINISHED / f"inputs-{number}.json", inputs)
            write_json(between / REPORT, report.to_dict())
            shutil.rmtree(between / UNFINISHED, ignore_errors=True)
        done.append(report)
        current = str(between)
        found = _examine_step(between)
    report, streamed, resumed = _one_step(current, found, out, steps[-1], options, state, progress)
    if streamed and options.save_as == "dense":
        note = check_folder(out, out / UNFINISHED, device=torch.device(options.device))
        # The calibration text has shown the states already.
        report = report if needs_calibration(steps[-1]) else _with_note(report, note)
    size, before = files_bytes(str(out)), files_bytes(model)
    warnings = report.warnings
    if size and before and size > before and not streamed and found.files.gguf:
        warnings += (
            f"the weights of {Path(model).name} ({megabytes(before)}) are unpacked: {megabytes(size)}",
        )
    done.append(replace(report, size_bytes=size, warnings=warnings))
    dense = compressed = None
    if text is not None:
        dense, compressed = (_measure(name, text, options) for name in (model, str(out)))
        broken = [
            name for name, one in (("dense", dense), ("compressed", compressed)) if not isfinite(one.value)
        ]
        if broken:
            why = (
                f"the perplexity of the {' and of the '.join(broken)} model is NaN or infinite, so its outputs are; the "
                "model is damaged, or needs a wider type (--dtype bfloat16 or float32)"
            )
            done[-1] = replace(done[-1], warnings=(*done[-1].warnings, why))
    result = FolderReport(
        out, tuple(done), streamed, resumed, time.perf_counter() - started, dense=dense, compressed=compressed
    )
    adapter = find_adapter(model)
    base = None if adapter is None else base_of(adapter)
    merged = {} if base is None else {"adapter_of": base}
    write_json(out / REPORT, {"settings": settings, **merged, **_plain(result)})
    write_card(out, model, result.steps, dense, compressed, base=base)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return result


def _is_done(folder: Path) -> bool:
    return (folder / REPORT).exists()


@contextmanager
def _nothing_left_behind(out: Path) -> Iterator[None]:
    """Lock the folder, and after an error remove the files and folders that this call made.

    Finished blocks are kept so that a later call can resume, unless the step was refused (`RefusedError`), which would
    happen again.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    was_empty = out.is_dir() and not any(out.iterdir())
    with only_writer(out, out / UNFINISHED):
        try:
            yield
        except RefusedError:
            if (out / UNFINISHED).is_dir():
                for entry in out.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                _remove_folders(made)
            raise
        except AnomiaError:
            kept = [
                file
                for file in out.rglob("*")
                if file.is_file()
                and not file.name.endswith((".bin", ".partial"))
                and file.name not in ("state.json", LOCK)
            ]
            state = read_json(out / UNFINISHED / "state.json") or {}
            if (made or was_empty) and not state.get("matrices") and not kept:
                shutil.rmtree(out if made else out / UNFINISHED, ignore_errors=True)
                _remove_folders(made)
            raise


def _remove_folders(folders: Sequence[Path]) -> None:
    """Remove the empty ones among some folders, innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _examine(model: str) -> Examined:
    adapter = find_adapter(model)
    if adapter is not None:
        return examine_merged(adapter, _examine)
    found = examine(model)
    if getattr(found.config, "quantization_config", None) is not None:
        raise CompressionError(f"{model} is already quantized; compress its dense checkpoint")
    return found


def _examine_step(folder: Path) -> Examined:
    """Examine the result of a step; codes in a packed one count as surplus, since the next step doesn't read them."""
    found = examine(str(folder))
    if getattr(found.config, "quantization_config", None) is None:
        return found
    config = copy.deepcopy(found.config)
    del config.quantization_config
    model = skeleton(config)
    return found._replace(config=config, skeleton=model, account=account(model, found.stored))


def _one_step(
    model: str,
    found: Examined,
    out: Path,
    step: Step,
    options: FolderOptions,
    state: dict[str, Any],
    progress: OnProgress | None,
) -> tuple[CompressionReport, bool, int]:
    """Apply one step from a model into a folder; returns its report, whether it was streamed, and resumed blocks."""
    source = _fetched(model, found.files)
    # A model that is loaded as a whole brings its tokenizer.
    tokenizer = None if source is None else read_tokenizer(model, found.files)
    streamed = None
    if source is not None:
        streamed = open_streamed(
            found, source, out, out / UNFINISHED, step, state,
            dtype=options.dtype, device=torch.device(options.device), save_as=options.save_as,
            dense=options.dense,
        )  # fmt: skip
    if streamed is not None:
        windows = _windows(step, tokenizer, streamed.model, options)
        _check_inputs(out, state, windows, model=files_of(found.files), finished=streamed.is_begun())
        streamed.save()
        report, resumed = streamed.run(windows, options.batch_tokens, progress)
        return replace(report, warnings=(*found.notes, *report.warnings)), True, resumed
    if options.save_as != "dense" and not isinstance(step, Quantize):
        raise CompressionError(
            f"the token tables aren't stored as the model holds them, so {step} can't be applied to packed codes; "
            + leave_out(options.save_as)
        )
    loaded = _load(model, options)
    packed: dict[str, Quantized] | None = None
    reasons: dict[str, str] = {}
    if options.save_as != "dense":
        assert isinstance(step, Quantize)
        packed = {}
        reasons = plan_whole(loaded.model, find_blocks(loaded.model), step, options.save_as)
    windows = _windows(step, loaded.tokenizer, loaded.model, options)
    begun = any(state.get(name) for name in ("matrices", "measured", "written"))
    _check_inputs(out, state, windows, model=files_of(found.files), finished=begun)
    report = compress(
        loaded.model,
        step,
        windows,
        progress=progress,
        batch_tokens=options.batch_tokens,
        packed=packed,
        dense=options.dense,
    )
    report = _with_note(report, check_outputs(loaded.model))
    _save_whole(loaded.model, loaded.tokenizer, out)
    if packed is None:
        check_saved(out, loaded.model)
    else:
        assert isinstance(step, Quantize)
        pack_folder(loaded.model, find_blocks(loaded.model), out, packed, reasons, step, options.save_as)
    return replace(report, warnings=(*loaded.notes, *report.warnings, *notes_on(reasons))), False, 0


def _with_note(report: CompressionReport, note: str) -> CompressionReport:
    return replace(report, warnings=(*report.warnings, note)) if note else report


def _save_whole(model: Any, tokenizer: Any, out: Path) -> None:
    try:
        check_finite(model.state_dict())
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
    """Return the folder with the weights and all small files; `None` if the whole model must be loaded (GGUF)."""
    if not files.weights or Path(files.source).is_dir():
        return files.folder if files.weights else None
    from huggingface_hub import snapshot_download

    folder = files.weights[0].parent
    try:
        # In the hub's cache, a folder is named after its commit.
        return Path(snapshot_download(model, revision=folder.name, allow_patterns=SMALL))
    except Exception as error:
        raise ModelError(explain(model, error, folder=folder)) from None


def _open_out(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an unfinished run with the same settings, or a fresh state for an empty folder."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    fresh: dict[str, Any] = {"key": key, "settings": settings, "sparsities": [], "matrices": []}
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
            before = state.get("settings", {})
            other = [name for name in settings if before.get(name) != settings[name]] if before else []
            named = f" ({', '.join(other)})" if other else ""
            raise CompressionError(
                f"{out} holds an unfinished compression with other settings{named}; repeat that command, or remove the folder"
            )
        return state
    try:
        (out / UNFINISHED).mkdir(parents=True)
    except OSError as error:
        raise CompressionError(f"{out} can't be written: {error.strerror}; choose another folder") from None
    return fresh


def _check_inputs(
    out: Path, state: dict[str, Any], windows: Windows | None, *, model: Sequence[Path], finished: bool
) -> None:
    """Refuse to resume work on another model, text or version of anomia; record all three in a fresh state.

    model: the files of the model. finished: whether finished work depends on them.
    """
    now = {
        "model": content_hash(model),
        "calibration text": None if windows is None else windows.record.token_hash,
        "version of anomia": __version__,
        "version of torch": torch.__version__,
        "version of transformers": transformers.__version__,
    }
    before = state.setdefault("inputs", now)
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed and finished:
        raise CompressionError(
            f"{out} holds an unfinished compression with another {' and another '.join(changed)}: the files at the same "
            "path have changed since; restore it, or remove the folder"
        )
    if changed:
        state["sparsities"] = []
    state["inputs"] = now


def _windows(step: Step, tokenizer: Any, model: Any, options: FolderOptions) -> Windows | None:
    """Return the calibration tokens of a step. model: the one that it changes, with or without weights."""
    return prepare_windows(step, tokenizer, options.text, positions=text_limit(model))


def _load(model: str, options: FolderOptions) -> LoadedModel:
    return load_model(model, dtype=options.dtype, device=torch.device(options.device).type)


def _measure(model: str, text: str, options: FolderOptions) -> Perplexity:
    loaded = _load(model, options)
    return perplexity(loaded.model, loaded.tokenizer, text, max_tokens=options.perplexity_tokens)


def _plain_settings(model: str, steps: Sequence[Step], options: FolderOptions) -> dict[str, Any]:
    """Return the settings that `anomia.json` and the state of an unfinished folder record."""
    values = asdict(options)
    values |= values.pop("text")
    values |= {
        "calibration": values.pop("source"),
        "languages": list(options.text.languages),
        "dense": list(options.dense),
        "device": torch.device(options.device).type,
    }
    kept = {name: value for name, value in values.items() if name not in _NOT_IN_SETTINGS}
    return {"model": model, "step": "+".join(map(str, steps)), **kept}


def _plain(result: FolderReport) -> dict[str, Any]:
    return {
        "compression": result.compression.to_dict(),
        "before": [report.to_dict() for report in result.steps[:-1]],
        "streamed": result.streamed,
        "resumed_at": result.resumed_at,
        "seconds": result.seconds,
        "perplexity": {
            name: value._asdict()
            for name, value in (("dense", result.dense), ("compressed", result.compressed))
            if value is not None
        },
    }
