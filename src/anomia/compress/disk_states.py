"""Calibration activations on disk, so that memory only holds one block and one batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import xxhash

from anomia.errors import CompressionError


class DiskStates:
    """Hidden states in two files, the inputs and the outputs of the current block, so no file mixes old and new states.

    at: the current block. The inputs of block b are in the file number b modulo 2. device: to which states are read.
    digests: hashes of the last written states, by batch.
    """

    def __init__(self, folder: Path, *, name: str = "states", device: torch.device) -> None:
        self.at = 0
        self._device = device
        self._folder = folder
        self._name = name
        self._shapes: list[tuple[int, ...]] = []
        self._offsets = [0]
        self._dtype = torch.float32
        self.digests: dict[int, str] = {}

    @property
    def bytes(self) -> int:
        """The size of both files in bytes."""
        return 2 * self._offsets[-1]

    def describe(self, batch: int, hidden: torch.Tensor) -> None:
        """Add the shape of the next batch, [B, S, H], without storing it: the file of an interrupted run has it."""
        assert batch == len(self._shapes)
        self._shapes.append(tuple(hidden.shape))
        self._offsets.append(self._offsets[-1] + hidden.nbytes)
        self._dtype = hidden.dtype

    def keep(self, batch: int, hidden: torch.Tensor) -> None:
        """Store the input of the first block for the next batch, [B, S, H]."""
        self.describe(batch, hidden)
        self._store(0, batch, hidden)

    def check(self, digests: Sequence[str]) -> None:
        """Check the stored inputs of block `at` after an interruption. digests: their hashes, one per batch.

        Raises `CompressionError` if the file is missing, truncated or different.
        """
        try:
            raw = np.fromfile(self._file(self.at), dtype=np.uint8)
        except FileNotFoundError:
            raw = np.zeros(0, dtype=np.uint8)
        parts = [raw[start:end] for start, end in pairwise(self._offsets)]
        if len(raw) < self._offsets[-1] or [
            xxhash.xxh3_64_hexdigest(part.tobytes()) for part in parts
        ] != list(digests):
            raise CompressionError(
                f"{self._file(self.at)} does not hold the calibration states that were stored, so the "
                "finished blocks can't be continued; remove the folder and run the same command again"
            )

    def remove(self) -> None:
        """Delete the files."""
        for parity in (0, 1):
            self._file(parity).unlink(missing_ok=True)

    def read(self, batch: int) -> torch.Tensor:
        """Return the input of block `at` for a batch, [B, S, H]."""
        start, end = self._offsets[batch : batch + 2]
        raw = np.fromfile(self._file(self.at), dtype=np.uint8, count=end - start, offset=start)
        return torch.from_numpy(raw).view(self._dtype).reshape(self._shapes[batch]).to(self._device)

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store the output of block `at` for a batch, [B, S, H]."""
        self._store(self.at + 1, batch, hidden)

    def _store(self, block: int, batch: int, hidden: torch.Tensor) -> None:
        file = self._file(block)
        try:
            with open(file, "r+b" if file.exists() else "w+b") as handle:
                handle.seek(self._offsets[batch])
                content = hidden.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                handle.write(content)
                self.digests[batch] = xxhash.xxh3_64_hexdigest(content)
        except OSError as error:
            raise CompressionError(
                f"{file} can't be written ({error}); make room, then run the same command again"
            ) from None

    def _file(self, block: int) -> Path:
        return self._folder / f"{self._name}-{block % 2}.bin"
