"""Compress a model into a new folder (prune, reshape or quantize), with one block in memory at a time."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Sequence
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
from anomia.compress.calibration import Windows, read_calibration
from anomia.compress.calls import text_limit
from anomia.compress.in_files import REPORT, SMALL
from anomia.compress.kept import keep_dense
from anomia.compress.merged import base_of, examine_merged, files_of
from anomia.compress.methods.grid import Quantized
from anomia.compress.methods.llm_int8 import add_settings
from anomia.compress.methods.taken import check_taken, taken_files
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
from anomia.compress.steps import (
    Checkpoint,
    Embeddings,
    Null,
    Quantize,
    Served,
    Step,
    Take,
    needs_calibration,
)
from anomia.compress.streamed import open_streamed
from anomia.compress.unfinished import (
    UNFINISHED,
    is_done,
    only_own_files,
    open_out,
    open_step,
    publish,
    step_folder,
)
from anomia.compress.verify import check_saved
from anomia.compress.written import check_written, content_hash
from anomia.errors import CompressionError, ModelError, RefusedError, StudyError, nearest
from anomia.files import read_json, write_json
from anomia.models.adapters import find_adapter
from anomia.models.after import quantization_method
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
    experts are fused while loading), if the step needs gradients, or if it rotates the states (`slicegpt`).

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
            "dense: GPTQ checkpoints name the packed matrices once for all blocks, so single ones can't "
            "stay dense; use --save-as compressed-tensors"
        )
    options = replace(options, device=resolve_device(options.device))
    file = options.perplexity_text
    text = None if file is None else read_text(file, about="the text for perplexity")
    found = _examine(model)
    _check_all(found, steps, options)
    if text is not None and not text.strip():
        raise StudyError(f"{file} is empty; give a text on which the models can be compared")
    if text is not None:
        check_text(load_tokenizer(model)[0], text, max_tokens=options.perplexity_tokens)
    with only_own_files(out):
        return _all_steps(model, found, out, steps, options, text, progress, started)


def _check_all(found: Examined, steps: Sequence[Step], options: FolderOptions) -> None:
    """Refuse, before any work, steps that don't fit the model, and calibration texts that can't be read."""
    # The configuration tells the shapes of every model, also of those whose stored tensors are converted or merged.
    empty = skeleton(found.config) if found.skeleton is None else found.skeleton
    keep_dense(empty, options.dense)
    check_steps(empty, steps)
    for step in steps:
        if isinstance(step, Take):
            check_taken(found, step.model)
        if needs_calibration(step):
            read_calibration(replace(options.text.under(step.calibration), samples=1))


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
    open_out(out, len(steps), settings)
    made = step_folder(out, len(steps))
    if is_done(made):
        # An earlier call was stopped while it moved the result, or a file was in the way.
        result = _read_report(out, read_json(made / REPORT) or {})
    else:
        done, current, found = _steps_before(model, found, out, steps, options, progress)
        last, streamed, resumed = _last_step(model, current, found, made, steps[-1], options, progress)
        dense, compressed, notes = _measured(model, made, text, options)
        last = replace(last, warnings=(*last.warnings, *notes))
        result = FolderReport(
            out,
            (*done, last),
            streamed,
            resumed,
            time.perf_counter() - started,
            dense=dense,
            compressed=compressed,
        )
        adapter = find_adapter(model)
        base = None if adapter is None else base_of(adapter)
        write_card(made, model, result.steps, dense, compressed, base=base)
        merged = {} if base is None else {"adapter_of": base}
        write_json(made / REPORT, {"settings": settings, **merged, **_plain(result)})
    publish(made, out)
    return result


def _steps_before(
    model: str,
    found: Examined,
    out: Path,
    steps: Sequence[Step],
    options: FolderOptions,
    progress: OnProgress | None,
) -> tuple[list[CompressionReport], str, Examined]:
    """Make the folders of all steps but the last; returns their reports, and the model that the last step changes."""
    # Packed codes can't be compressed again, but `embeddings` leaves them alone.
    unpacked = replace(options, save_as="dense")
    current, done, origin = model, [], files_of(found.files)
    for number, step in enumerate(steps[:-1], 1):
        between = step_folder(out, number)
        mine = options if isinstance(steps[number], Embeddings) else unpacked
        report = CompressionReport.from_dict(read_json(between / REPORT) or {}) if is_done(between) else None
        inputs = read_json(out / UNFINISHED / f"inputs-{number}.json") or {}
        windows = None
        if report is not None:
            tokenizer = read_tokenizer(str(between), look_up(str(between)))
            windows = _windows(step, tokenizer, skeleton(found.config), options)
        # Check the model and text of a finished step, too.
        _check_inputs(out, inputs, windows, step=step, model=origin, finished=report is not None)
        if report is not None:
            check_written(between, files_of(_examine_step(between).files), inputs.get("result"), out)
        if report is None:
            state = open_step(between, _plain_settings(current, [step], mine))
            report, _, _ = _one_step(current, found, between, step, mine, state, progress)
            record = report.calibration
            inputs["inputs"]["calibration text"] = None if record is None else record.token_hash
            inputs["result"] = content_hash(files_of(_examine_step(between).files))
            write_json(out / UNFINISHED / f"inputs-{number}.json", inputs)
            write_json(between / REPORT, report.to_dict())
            shutil.rmtree(between / UNFINISHED, ignore_errors=True)
        done.append(report)
        current = str(between)
        found = _examine_step(between)
    return done, current, found


def _last_step(
    model: str,
    current: str,
    found: Examined,
    made: Path,
    step: Step,
    options: FolderOptions,
    progress: OnProgress | None,
) -> tuple[CompressionReport, bool, int]:
    """Make the folder of the last step, without its final report; returns what `_one_step` does."""
    state = open_step(made, _plain_settings(current, [step], options))
    report, streamed, resumed = _one_step(current, found, made, step, options, state, progress)
    if streamed and options.save_as == "dense":
        note = check_folder(made, made / UNFINISHED, device=torch.device(options.device))
        report = _with_note(report, note)
    size, before = files_bytes(str(made)), files_bytes(model)
    if size and before and size > before and not streamed and found.files.gguf:
        unpacked = f"the weights of {Path(model).name} ({megabytes(before)}) are unpacked: {megabytes(size)}"
        report = _with_note(report, unpacked)
    return replace(report, size_bytes=size), streamed, resumed


def _measured(
    model: str, made: Path, text: str | None, options: FolderOptions
) -> tuple[Perplexity | None, Perplexity | None, tuple[str, ...]]:
    """Return the perplexities of the model and of the result, if requested, with a note if one isn't finite."""
    if text is None:
        return None, None, ()
    dense, compressed = (_measure(name, text, options) for name in (model, str(made)))
    broken = [name for name, one in (("dense", dense), ("compressed", compressed)) if not isfinite(one.value)]
    if not broken:
        return dense, compressed, ()
    why = (
        f"the perplexity of the {' and of the '.join(broken)} model is NaN or infinite, so its outputs are; the "
        "model is damaged, or needs a wider type (--dtype bfloat16 or float32)"
    )
    return dense, compressed, (why,)


def _examine(model: str) -> Examined:
    adapter = find_adapter(model)
    if adapter is not None:
        return examine_merged(adapter, _examine)
    found = examine(model)
    method = quantization_method(found.config)
    if method is not None:
        raise RefusedError(f"{model} is already quantized ({method}); compress its dense checkpoint")
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
        _check_inputs(
            out, state, windows, step=step, model=files_of(found.files), finished=streamed.is_begun()
        )
        streamed.save()
        report, resumed = streamed.run(windows, options.batch_tokens, progress)
        return replace(report, warnings=(*found.notes, *report.warnings)), True, resumed
    if options.save_as != "dense" and not isinstance(step, Quantize):
        raise RefusedError(
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
    _check_inputs(out, state, windows, step=step, model=files_of(found.files), finished=begun)
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
        add_settings(model)
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


def _check_inputs(
    out: Path,
    state: dict[str, Any],
    windows: Windows | None,
    *,
    step: Step,
    model: Sequence[Path],
    finished: bool,
) -> None:
    """Refuse to resume work on another model, text or version of anomia; record all three in a fresh state.

    model: the files of the model. finished: whether finished work depends on them.
    """
    now = {
        "model": content_hash(model),
        "calibration text": None if windows is None else windows.record.token_hash,
        **({"compressed model": content_hash(taken_files(step.model))} if isinstance(step, Take) else {}),
        "version of anomia": __version__,
        "version of torch": torch.__version__,
        "version of transformers": transformers.__version__,
    }
    before = state.setdefault("inputs", now)
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed and finished:
        raise CompressionError(
            f"{out} holds an unfinished compression with another {' and another '.join(changed)}: the files "
            "at the same path have changed since; restore it and run the same command again, or remove the "
            "folder"
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


def _read_report(out: Path, plain: dict[str, Any]) -> FolderReport:
    """Read a report that was written with `_plain`."""
    steps = (*plain["before"], plain["compression"])
    measured = {name: Perplexity(**value) for name, value in plain["perplexity"].items()}
    return FolderReport(
        out,
        tuple(map(CompressionReport.from_dict, steps)),
        plain["streamed"],
        plain["resumed_at"],
        plain["seconds"],
        dense=measured.get("dense"),
        compressed=measured.get("compressed"),
    )
