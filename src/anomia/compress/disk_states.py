"""Calibration activations on disk, so that memory holds one block and one batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from anomia.errors import CompressionError


class DiskStates:
    """Hidden states in two files, one before and one after the block in work: neither is ever half new.

    at: the block in work. What enters block b lies in the file of b's parity. device: where states are read to.
    """

    def __init__(self, folder: Path, *, name: str = "states", device: torch.device) -> None:
        self.at = 0
        self._device = device
        self._folder = folder
        self._name = name
        self._shapes: list[tuple[int, ...]] = []
        self._offsets = [0]
        self._dtype = torch.float32

    @property
    def bytes(self) -> int:
        """What both files take."""
        return 2 * self._offsets[-1]

    def describe(self, batch: int, hidden: torch.Tensor) -> None:
        """Learn the shape of the next batch without storing it: the file of an interrupted run has it."""
        assert batch == len(self._shapes)
        self._shapes.append(tuple(hidden.shape))
        self._offsets.append(self._offsets[-1] + hidden.nbytes)
        self._dtype = hidden.dtype

    def keep(self, batch: int, hidden: torch.Tensor) -> None:
        """Store what enters the first block in the next batch."""
        self.describe(batch, hidden)
        self._store(0, batch, hidden)

    def copy(self, name: str) -> DiskStates:
        """The same states at the first block, in files of their own."""
        twin = DiskStates(self._folder, name=name, device=self._device)
        twin._shapes, twin._offsets, twin._dtype = self._shapes, self._offsets, self._dtype
        shutil.copyfile(self._file(0), twin._file(0))
        return twin

    def remove(self) -> None:
        """Delete the files."""
        for parity in (0, 1):
            self._file(parity).unlink(missing_ok=True)

    def read(self, batch: int) -> torch.Tensor:
        """What enters block `at` in a batch, [B, S, H]."""
        start, end = self._offsets[batch : batch + 2]
        raw = np.fromfile(self._file(self.at), dtype=np.uint8, count=end - start, offset=start)
        return torch.from_numpy(raw).view(self._dtype).reshape(self._shapes[batch]).to(self._device)

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store what leaves block `at` in a batch."""
        self._store(self.at + 1, batch, hidden)

    def _store(self, block: int, batch: int, hidden: torch.Tensor) -> None:
        file = self._file(block)
        try:
            with open(file, "r+b" if file.exists() else "w+b") as handle:
                handle.seek(self._offsets[batch])
                handle.write(hidden.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        except OSError as error:
            raise CompressionError(
                f"{file} can't be written ({error}); make room, then run the same command again"
            ) from None

    def _file(self, block: int) -> Path:
        return self._folder / f"{self._name}-{block % 2}.bin"
