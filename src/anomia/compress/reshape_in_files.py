"""Reshape a model folder into another one, with one block in memory at a time."""

from __future__ import annotations

import copy
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from anomia.compress.apply import versions, warnings_of
from anomia.compress.calibration import Windows
from anomia.compress.in_files import InFiles, write_settings
from anomia.compress.matrices import block_weights
from anomia.compress.methods.table import reshaper_of
from anomia.compress.pipeline import OnProgress
from anomia.compress.report import CompressionReport, by_reason
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.parts import ReshapePlan, TensorRecipe, outline
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.subject import Measured, walked
from anomia.compress.shards import grouped, shard_name, write_index
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Reshape
from anomia.compress.visit import AtBlock, visit
from anomia.compress.walk import calibrating, make_model_batches
from anomia.compress.written import Written, content_hash
from anomia.errors import CompressionError, ModelError, RefusedError
from anomia.models.examine import examine, look_up, read_tokenizer


class InFolder:
    """A model in files to reshape into other files.

    state: of an unfinished call, with hashes of the `measured` and `written` files. fresh: the new model, once built.
    """

    def __init__(
        self, blocks: InFiles, out: Path, scratch: Path, state: dict[str, Any], save: Callable[[], None],
        written: Written,
    ) -> None:  # fmt: skip
        self.blocks = blocks
        self.model: Any = blocks.model
        self.decoder = blocks.decoder
        self.device = blocks.device
        self.fresh: InFolder | None = None
        self._out, self._scratch = out, scratch
        self._state, self._save, self._written = state, save, written

    def check(self, ids: torch.Tensor) -> None:
        """Check only the values outside the blocks; non-finite states show later in the statistics. ids: [1, S]."""
        if not self._state["measured"]:
            self.blocks.check_outer()

    def measure(self, walk: Walk, look: Callable[[AtBlock], Measured], *, about: str) -> list[Measured]:
        """Measure with the states on disk, starting at the first block that no earlier call measured.

        look: returns the tensors of one block by name, of any shape; they are stored and returned by block.
        Raises `CompressionError` if a file of an earlier call is damaged.
        """
        if self._state.get("about") != about:
            self._state |= {"about": about, "measured": [], "states": []}
        hashes: list[str] = self._state["measured"]
        found: list[Measured] = [self._measured(number) for number in range(len(hashes))]
        count = len(self.decoder.modules)
        if len(found) == count:
            return found
        blocks = self.blocks
        blocks.resumed, blocks.digests = len(found), self._state.get("states") or ()
        batches = make_model_batches(
            self.decoder, walk.windows, StatisticNeeds(), batch_tokens=walk.batch_tokens
        )
        with calibrating(self.model, self.device):
            for one in visit(blocks, batches, look, dense=False, first=len(found)):
                file = self._file(len(found))
                save_file({name: value.contiguous() for name, value in one.items()}, file)
                found.append(one)
                hashes.append(content_hash([file]))
                assert blocks.states is not None
                digests = blocks.states.digests
                self._state["states"] = [digests[batch] for batch in sorted(digests)]
                self._save()
                if walk.progress is not None:
                    walk.progress(len(found), count)
            assert blocks.states is not None
            blocks.states.remove()
        return found

    def _file(self, number: int) -> Path:
        return self._scratch / f"measured-{number:05d}.safetensors"

    def _measured(self, number: int) -> Measured:
        file = self._file(number)
        if not file.is_file() or content_hash([file]) != self._state["measured"][number]:
            raise CompressionError(
                f"{file} does not hold the statistics that were stored, so the finished blocks can't be "
                "continued; remove the folder and run the same command again"
            )
        read: Measured = load_file(file)
        return read

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """Context manager for a block, read from its file and freed afterwards."""
        return self.blocks.block(index)

    def last_states(self, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
        """Run one block after the other. ids: [1, S]; returns float32 [1, S, H]."""
        return walked(self.blocks, ids, only)

    @torch.no_grad()
    def build(self, plan: ReshapePlan) -> InFolder:
        """Write the new folder shard by shard and open it. Shards that an earlier call wrote for this plan are kept."""
        key = hashlib.sha256(plan.config.to_json_string(use_diff=False).encode()).hexdigest()
        if self._state.get("plan") != key:
            self._written.remove()
            self._state["plan"] = key
            self._save()
        parts = {name: part for name, part in plan.parts.items() if name not in self.blocks.tied}
        places = {name: self._place(name, part) for name, part in parts.items()}
        files: dict[str, str] = {}
        for number, names in enumerate(self._shards(parts)):
            file = shard_name(number)
            if file not in self._written:
                self._written.write(file, {places[name]: self._make(parts[name]) for name in names})
            files |= {places[name]: file for name in names}
        write_index(self._out, files, sum((self._out / file).stat().st_size for file in set(files.values())))
        self._write_config(plan.config)
        return self._open(places)

    def _shards(self, parts: Mapping[str, TensorRecipe]) -> list[list[str]]:
        """Return the new tensors of each shard: one shard per block, then the others."""
        prefix = f"{self.decoder.name}."
        blocks: dict[int, list[str]] = {}
        for name in parts:
            if name.startswith(prefix):
                blocks.setdefault(int(name.removeprefix(prefix).partition(".")[0]), []).append(name)
        shapes = outline(parts, self.model)
        others = {name: shapes[name].nbytes for name in parts if not name.startswith(prefix)}
        return [*(blocks[index] for index in sorted(blocks)), *grouped(others)]

    def _make(self, part: TensorRecipe) -> torch.Tensor:
        """Make a new tensor, with only its sources in memory."""
        stored = {name: self.blocks.places[name] for name in part.sources}
        values = self.blocks.checkpoint.read(stored.values(), dtype=self.blocks.dtype)
        return part.of({name: values[place].to(self.device) for name, place in stored.items()}).cpu()

    def _place(self, name: str, part: TensorRecipe) -> str:
        """Return the stored name of a tensor: the old model's, or one made by the same rule."""
        places = self.blocks.places
        if name in places:
            return places[name]
        inside = (other for other in places if other.startswith(f"{self.decoder.name}."))
        like = next(iter(part.sources), None) or next(inside)
        stored = places[like]
        if stored.endswith(like):
            return stored.removesuffix(like) + name
        return name.removeprefix(like.removesuffix(stored)) if like.endswith(stored) else name

    def _write_config(self, config: Any) -> None:
        written = copy.deepcopy(config)
        written.architectures = [type(self.model).__name__]
        written.dtype = str(self.model.dtype).removeprefix("torch.")
        write_settings(self.blocks.checkpoint.folder, self._out, dtype=None)
        try:
            written.save_pretrained(self._out)
        except OSError as error:
            raise CompressionError(
                f"{self._out / 'config.json'} can't be written ({error.strerror}); make room, then run the "
                "same command again"
            ) from None

    def _open(self, places: Mapping[str, str]) -> InFolder:
        """Open the written model. Raises `CannotExpressError` if it isn't read as planned."""
        name = str(self._out)
        try:
            found = examine(name)
            read_tokenizer(name, look_up(name))
        except ModelError as error:
            raise CannotExpressError(str(error)) from error
        blocks = InFiles(found, self._out, self._out, self._scratch, dtype="auto", device=self.device)
        if not blocks.fits or any(blocks.places.get(name) != place for name, place in places.items()):
            raise CannotExpressError("what is written isn't stored as the model holds it")
        return InFolder(blocks, self._out, self._scratch, self._state, self._save, self._written)

    def sizes(self) -> tuple[int, int]:
        """Count by name; a tied head is counted with the embedding."""
        shapes = self.model.state_dict()
        names = [name for name in shapes if name not in self.blocks.tied]
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        stored = [self.blocks.checkpoint.tensors[self.blocks.places[name]] for name in names]
        dtype = self.blocks.dtype
        sizes = [
            shapes[name].numel() * dtype.itemsize
            if dtype and shapes[name].is_floating_point()
            else info.bytes
            for name, info in zip(names, stored, strict=True)
        ]
        return sum(shapes[name].numel() for name in names if name in parameters), sum(sizes)

    def become(self, fresh: InFolder) -> None:
        """Keep the new folder as the result."""
        self.fresh = fresh

    def discard(self) -> None:
        """Remove all measurements and written files after the step was refused."""
        self._written.remove()
        for entry in self._out.iterdir():
            if entry == self._scratch:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        for file in self._scratch.glob("measured-*.safetensors"):
            file.unlink()
        self._state |= {"measured": [], "states": []}
        self._save()


def can_be_reshaped(blocks: InFiles) -> bool:
    """Whether a model can be reshaped from its files: its blocks were found to depend only on their inputs."""
    return blocks.fits and not blocks.note and not blocks.decoder.paths and blocks.decoder.padded


def reshape_files(
    subject: InFolder,
    step: Reshape,
    windows: Windows | None,
    *,
    batch_tokens: int,
    progress: OnProgress | None = None,
) -> CompressionReport:
    """Reshape a model folder into another one, as `apply.compress` does with a loaded model.

    Raises:
        CompressionError: the step doesn't fit this model, and all written files were removed; or the disk is full, or a
            file is damaged.
    """
    started = time.perf_counter()
    subject.blocks.check_room()
    reshaper = reshaper_of(step.method)
    try:
        shaped = reshaper.apply(subject, step.share, windows, progress=progress, batch_tokens=batch_tokens)
    except RefusedError:
        subject.discard()
        raise
    assert subject.fresh is not None
    fresh = subject.fresh
    shaped = reshaper.with_share(
        shaped, step.share, (block_weights(subject.decoder), block_weights(fresh.decoder))
    )
    why = fresh.blocks.why_dense()
    return CompressionReport(
        step=str(step),
        matrices=(),
        seconds=time.perf_counter() - started,
        calibration=None if windows is None else windows.record,
        left_dense=tuple(why),
        dense_why=by_reason(why),
        warnings=(*warnings_of(step, windows, ()), *shaped.notes),
        reshaped=shaped.to_dict(),
        versions=versions(),
        size_bytes=shaped.bytes_after,
    )
