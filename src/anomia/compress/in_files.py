"""Read the blocks of a model folder one at a time, and write them into another folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import Batch
from anomia.compress.calls import Call, finish_pass
from anomia.compress.disk_states import DiskStates
from anomia.compress.kept import keep_dense
from anomia.compress.left_dense import dense_in_files
from anomia.compress.matrices import all_matrices
from anomia.compress.options import SaveAs
from anomia.compress.packed import add_settings, check_loadable, check_packed, tensors_of
from anomia.compress.packed import why_dense as why_unpacked
from anomia.compress.report import MatrixReport
from anomia.compress.shards import (
    StoredTensors,
    check_room,
    check_weights,
    empty,
    fill,
    grouped,
    match_names,
    open_checkpoint,
    shard_name,
    write_index,
    write_shard,
)
from anomia.compress.steps import Quantize, Step
from anomia.compress.verify import check_block, check_shapes, check_values
from anomia.compress.walk import enter, try_walk_small
from anomia.compress.written import value_hash
from anomia.errors import CompressionError
from anomia.files import read_json, write_json
from anomia.models.examine import Examined, look_up, read_tokenizer
from anomia.models.headers import read_headers, same_values
from anomia.models.load import DTYPES
from anomia.models.sizes import text_part
from anomia.models.tensors import skeleton

SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py"]
"""The files of a model folder other than weights."""
REPORT = "anomia.json"
# The folder in which transformers keeps named chat templates.
_TEMPLATES = "additional_chat_templates"
# The share of a tensor's values that may become zero in float16 without a warning.
_VANISHED = 0.01


class InFiles:
    """A model without its weights, with the folders to read them from and to write the changed ones to.

    names: per block, the stored name of each tensor by its name in the model. outer: the same for tensors outside the
    blocks. places: the same for all stored tensors. tied: names of the head's tensors that share the embedding.
    save_as: how quantized matrices are stored.
    meant: hashes of the values that were stored: of a matrix that is packed by its name in the model, of other tensors
    by their stored names.
    vanished: the share of values that float16 makes zero, by stored name, where it is more than a hundredth.
    resumed: blocks that an earlier call finished. digests: hashes of the states that it stored.
    cast: if the weights are stored in several types, the type in which blocks are computed (the configuration's, as
    transformers loads them), else None. Tensors are written in the type in which they were stored.
    """

    def __init__(
        self, found: Examined, source: Path, out: Path, scratch: Path, *, dtype: str, device: torch.device,
        save_as: SaveAs = "dense", runs: bool = True, dense: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.checkpoint = StoredTensors(source, found.stored)
        self.dtype = DTYPES.get(dtype)
        first = self.checkpoint.stored_dtype(self.checkpoint.tensors)
        several = runs and self.dtype is None and len(self.checkpoint.stored_dtypes()) > 1
        self.cast = (configured_dtype(found.config) or first) if several else None
        self.model: Any = skeleton(found.config, dtype=self.dtype or self.cast or first)
        keep_dense(self.model, dense)
        self.decoder, self.note = try_walk_small(find_blocks(self.model), found.config)
        self.device = device
        self.save_as = save_as
        self.resumed = 0
        self.digests: Sequence[str] = ()
        self.meant: dict[str, str] = {}
        self.vanished: dict[str, float] = {}
        self.states: DiskStates | None = None
        self._out, self._scratch = out, scratch
        self.names: tuple[dict[str, str], ...] = ()
        self.outer: dict[str, str] = {}
        self.places: Mapping[str, str] = {} if found.account is None else found.account.places
        self.tied: frozenset[str] = frozenset()
        self.fits = (
            found.account is not None
            and not self.decoder.fault
            and self._can_be_taken_apart()
            and self._match(found, found.account.places)
        )

    def _can_be_taken_apart(self) -> bool:
        """Whether the matrices can be found without their values; otherwise the model must be loaded."""
        try:
            for index, block in enumerate(self.decoder.modules):
                all_matrices(block, self.decoder.path(index))
        except CompressionError:
            return False
        return True

    def _match(self, found: Examined, places: Mapping[str, str]) -> bool:
        """Whether the stored tensors match the model's one to one. places: stored name by model name."""
        blocks = [
            match_names(self.model, places, f"{self.decoder.path(i)}.")
            for i in range(len(self.decoder.modules))
        ]
        head = self.model.get_output_embeddings()
        heads = {
            f"{n}.{leaf}" for n, m in self.model.named_modules() if m is head for leaf in ("weight", "bias")
        }
        inside = tuple(f"{self.decoder.path(i)}." for i in range(len(self.decoder.modules)))
        outer = [n for n in self.model.state_dict() if not n.startswith(inside) and n not in heads]
        if any(names is None for names in blocks) or any(name not in places for name in outer):
            return False
        self.names = tuple(names or {} for names in blocks)
        self.outer = {name: places[name] for name in outer}
        ties = getattr(self.model, "all_tied_weights_keys", None) or {}
        self.tied = frozenset(n for n in heads & ties.keys() if self._is_stored_once(n, ties[n]))
        if heads & ties.keys() and not self.tied:
            # transformers doesn't tie two stored tables that differ, whatever the configuration says.
            text_part(self.model.config).tie_word_embeddings = False
        return True

    def _is_stored_once(self, head: str, table: str) -> bool:
        """Whether a head has no values in the files but those of the embeddings; both by their names in the model."""
        if head not in self.places or table not in self.places:
            return True
        stored, one, other = self.checkpoint.tensors, self.places[head], self.places[table]
        return one == other or same_values(one, stored[one], other, stored[other])

    def enter(self, batches: Sequence[Batch], *, dense: bool) -> tuple[DiskStates, list[list[Call]]]:
        """Run the part before the blocks. The first block must be in memory, since the type of its output is needed.

        Returns the inputs of the first block, [B, S, H] per batch, and the calls by block and batch.
        """
        unsaved = {name: value for name, value in self.model.named_buffers() if not value.is_meta}
        for values in (unsaved, self._read(self.outer), self._read(self.names[0])):
            fill(self.model, values, device=self.device)
        states = DiskStates(self._scratch, name="dense" if dense else "states", device=self.device)
        stored = bool(self.resumed) and not dense
        try:
            calls = enter(self.model, self.decoder, batches, states.describe if stored else states.keep)
        finally:
            empty(self.model)
        check_room(self._out, self.checkpoint.bytes + states.bytes)
        if stored and self.digests:
            states.at = self.resumed
            states.check(self.digests)
        if not dense:
            self.states = states
        return states, calls

    def logits(self, ids: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """Return the logits, [B, S, V], that follow from the states that leave the blocks, [B, S, H]. ids: [B, S]."""
        head = self.model.get_output_embeddings()
        names = [n for n in self.model.state_dict() if n not in self.outer and n in self.places]
        inside = {name for block in self.names for name in block}
        mine = {name: self.places[name] for name in names if name not in inside}
        unsaved = {name: value for name, value in self.model.named_buffers() if not value.is_meta}
        try:
            for values in (unsaved, self._read(self.outer | mine), self._read(self.names[0])):
                fill(self.model, values, device=self.device)
            if head is not None and head.weight.is_meta:
                head.weight = self.model.get_input_embeddings().weight
            return finish_pass(self.model, self.decoder, ids.to(self.device), left.to(self.device))
        finally:
            empty(self.model)

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """Context manager for a block with its weights, which are freed afterwards.

        Raises `CompressionError` if some of them are NaN or infinite.
        """
        block = self.decoder.modules[index]
        values = self._read(self.names[index])
        check_weights(values)
        fill(self.model, values, device=self.device)
        del values
        try:
            yield block
        finally:
            empty(block)

    def store(self, index: int, packed: Mapping[str, Any]) -> None:
        """Write a changed block into its own shard. packed: codes by matrix name in the block."""
        prefix = f"{self.decoder.path(index)}."
        tensors: dict[str, torch.Tensor] = {}
        for name, value in self.decoder.modules[index].state_dict().items():
            place, matrix = self.names[index][prefix + name], name.removesuffix(".weight")
            parts = None
            if self.save_as != "dense" and matrix in packed and name != matrix:
                parts = tensors_of(packed[matrix], self.save_as)
            if parts is None:
                tensors[place] = self._as_stored(place, value)
                self.meant[place] = value_hash(tensors[place])
            else:
                self.meant[prefix + matrix] = value_hash(value)
                tensors |= {place.removesuffix("weight") + suffix: part for suffix, part in parts.items()}
        write_shard(self._out / shard_name(index), tensors)

    def _as_stored(self, place: str, value: torch.Tensor) -> torch.Tensor:
        """Cast a tensor to its stored type; unchanged tensors keep every bit, and rounding creates no new zeros."""
        stored = self.checkpoint.stored_dtype([place])
        if self.cast is None or value.dtype == stored or not value.is_floating_point():
            return value
        before = self.checkpoint.read([place])[place]
        if torch.equal(before.to(value.dtype), value.cpu()):
            return before
        narrow, limits = value.to(stored), torch.finfo(stored)
        least = torch.full_like(narrow, limits.tiny * limits.eps).copysign(narrow)
        return torch.where((narrow == 0) & (value != 0), least, narrow)

    def check_room(self) -> None:
        """Refuse, before any work, a disk without room for the weights."""
        check_room(self._out, self.checkpoint.bytes)

    def check_outer(self) -> None:
        """Refuse, before any work, NaN and infinite values outside the blocks; reads one shard's worth at a time."""
        for names in grouped(self._rest()):
            check_weights(self.checkpoint.read(names, dtype=self.dtype))

    def _rest(self) -> dict[str, int]:
        """Return the bytes of every tensor outside the blocks, by stored name."""
        inside = {stored for names in self.names for stored in names.values()}
        return {n: info.bytes for n, info in self.checkpoint.tensors.items() if n not in inside}

    def why_dense(self) -> dict[str, str]:
        """Return the weights that stay dense by stored name, with the reasons; a tied head counts as its embedding."""
        return dense_in_files(self.model, self.decoder, places=self.places, tied=self.tied)

    def stored_name(self, matrix: str) -> str:
        """Return the stored name of a matrix, given its name in the model; a layer's without `.weight`."""
        place = self.places.get(matrix, self.places.get(f"{matrix}.weight", matrix))
        return place.removesuffix(".weight")

    def why_unpacked(self, step: Step) -> dict[str, str]:
        """Return why each matrix is stored dequantized although codes are wanted; empty if it is packed.

        Raises `CompressionError`, before any work, if nothing can be packed.
        """
        if self.save_as == "dense":
            return {}
        assert isinstance(step, Quantize)
        reasons = why_unpacked(self.model, self.decoder, step, self.save_as)
        check_loadable(self.model, reasons, self.save_as)
        return reasons

    def write_rest(self, step: Step) -> None:
        """Write the tensors outside the blocks bit for bit, then the index and the small files."""
        out, count = self._out, len(self.names)
        for index in range(count):
            if not (out / shard_name(index)).is_file():
                raise CompressionError(
                    f"{out / shard_name(index)} is missing from the finished blocks; remove {out} and run "
                    "the same command again"
                )
        places = {
            name: info.file.name
            for name, info in read_headers([out / shard_name(index) for index in range(count)]).items()
        }
        for number, names in enumerate(grouped(self._rest()), count):
            write_shard(out / shard_name(number), self.checkpoint.read(names, dtype=self.dtype))
            places.update(dict.fromkeys(names, shard_name(number)))
        write_index(out, places, sum((out / file).stat().st_size for file in set(places.values())))
        write_settings(self.checkpoint.folder, out, dtype=self.dtype)
        if self.save_as != "dense":
            assert isinstance(step, Quantize)
            add_settings(out, step, self.save_as, self.model, self.decoder)

    def check_written(self, matrices: Sequence[MatrixReport], step: Step) -> None:
        """Read every written block again, one at a time, and check that the folder is a complete model."""
        out = self._out
        written = open_checkpoint(out)
        read_tokenizer(str(out), look_up(str(out)))
        if self.save_as != "dense":
            self._check_packed(written, matrices, step)
            return
        check_shapes(out, self.checkpoint.tensors, written.tensors)
        expected = {matrix.name: matrix for matrix in matrices}
        before, self.checkpoint = self.checkpoint, written
        try:
            for index, names in enumerate(self.names):
                check_values(out, written.read(names.values()), self.meant)
                with self.block(index) as block:
                    check_block(out, block, self.decoder.path(index), expected)
        finally:
            self.checkpoint = before

    def _check_packed(self, written: StoredTensors, matrices: Sequence[MatrixReport], step: Step) -> None:
        """Read the packed matrices again, one block at a time, and compare them with the reports.

        Raises `CompressionError` as `check_packed` does.
        """
        assert isinstance(step, Quantize)
        for index, names in enumerate(self.names):
            where = self.decoder.path(index)
            mine = {m.name: m for m in matrices if m.name.startswith(f"{where}.")}
            # The codes, scales and zeros of a layer are stored under the layer's stored name.
            layers = {
                stored.removesuffix("weight"): name.removeprefix(f"{where}.").removesuffix("weight")
                for name, stored in names.items()
                if name.endswith(".weight")
            }
            found = [n for n in written.tensors if f"{n.rpartition('.')[0]}." in layers]
            tensors = {
                layers[f"{name.rpartition('.')[0]}."] + name.rpartition(".")[2]: value
                for name, value in written.read(found).items()
            }
            # Parameters of no layer hold their matrices dequantized.
            bare = {
                stored: name.removeprefix(f"{where}.")
                for name, stored in names.items()
                if stored in written.tensors and stored not in found
            }
            tensors |= {bare[stored]: value for stored, value in written.read(bare).items()}
            check_values(
                self._out, written.read(n for n in names.values() if n in written.tensors), self.meant
            )
            check_packed(self._out, tensors, where, step, self.save_as, mine, self.meant)

    def _read(self, names: dict[str, str]) -> dict[str, torch.Tensor]:
        stored = self.checkpoint.read(
            names.values(), dtype=None if self.dtype == torch.float16 else self.dtype
        )
        if self.dtype == torch.float16:
            stored = {place: self._narrowed(place, value) for place, value in stored.items()}
        if self.cast is None:
            return {name: stored[place] for name, place in names.items()}
        wide = kept_wide(self.model, self.cast)
        return {
            name: value.to(torch.float32 if wide(name) else self.cast) if value.is_floating_point() else value
            for name, value in ((name, stored[place]) for name, place in names.items())
        }

    def _narrowed(self, place: str, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor of any shape in float16, whose least number is 6e-8; note where many values become zero."""
        if not value.is_floating_point():
            return value
        narrow = value.to(torch.float16)
        gone = int(value.count_nonzero()) - int(narrow.count_nonzero())
        if gone > _VANISHED * value.numel():
            self.vanished[place] = gone / value.numel()
        return narrow


def configured_dtype(config: Any) -> torch.dtype | None:
    """Return the floating-point type that a configuration gives for the weights, if any."""
    dtype = getattr(config, "dtype", None)
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else None


def kept_wide(model: Any, dtype: torch.dtype) -> Callable[[str], bool]:
    """Return a test by model name for tensors that transformers loads as float32 even if the others are `dtype`."""
    names = set(model._keep_in_fp32_modules_strict or ()) if dtype != torch.float32 else set()
    if dtype == torch.float16:
        names |= set(model._keep_in_fp32_modules or ())
    pattern = re.compile(rf"(^|\.)({'|'.join(sorted(names))})(\.|$)") if names else None
    return lambda name: pattern is not None and pattern.search(name) is not None


def write_settings(source: Path, out: Path, *, dtype: torch.dtype | None) -> None:
    """Copy the small files and update the configuration. dtype: of all weights, None if it is the stored one."""
    copy_small_files(source, out)
    config = read_json(out / "config.json") or {}
    # The new weights have default file names, so drop the field that names other files.
    changed = {key: value for key, value in config.items() if key != "transformers_weights"}
    if dtype is not None:
        changed["dtype"] = str(dtype).removeprefix("torch.")
    if changed != config:
        write_json(out / "config.json", changed)


def copy_small_files(source: Path, out: Path) -> None:
    """Copy configuration, tokenizer, chat templates and generation settings unchanged."""
    for file in sorted([*source.iterdir(), *source.glob(f"{_TEMPLATES}/*.jinja")]):
        wanted = f"*{file.suffix}" in SMALL
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
