"""Cases to batches, with the presence mask. Every random draw is keyed by (seed, epoch, case)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from agfnet.cores import cores
from agfnet.data import augment
from agfnet.data.dicom import Patient
from agfnet.data.imagefile import DEFAULT_LIMITS, check_unopened
from agfnet.data.images import read_said
from agfnet.data.preprocess import Framed, ViewSpec, normalise, read_frame
from agfnet.data.said import check_one_patient
from agfnet.files import write_atomically
from agfnet.places import Url, look_up
from agfnet.types import Case, ImageError, Place

READER = 6
"""Raised where the same file gives other pixels than before, so that no cache goes on with the former ones."""
NAMES_PATIENT = ".names-patient"
UNKNOWN = -1
"""Index of a label that is not known; every loss leaves it out."""


class Batch(NamedTuple):
    """A batch of cases.

    Attributes:
        images: modality -> (B, 3, H, W) float32, normalised; zero where the view is absent.
        present: (B, M) bool.
        label: (B,) int64, UNKNOWN where it is not known.
        extra: (B, E) int64, further labels.
    """

    images: dict[str, Tensor]
    present: Tensor
    label: Tensor
    extra: Tensor


class Item(NamedTuple):
    """One case before it is put into a batch."""

    frames: dict[str, NDArray[np.uint8]]
    draws: dict[str, augment.Draw]
    present: list[bool]
    label: int
    extra: list[int]


class FrameCache:
    """Decoded and resized images on disk: one .npy per image and frame, written by a temporary name.

    A frame counts for a file as it is now (path, size, time of change), what it is made into, and `READER`. Beside
    the frame of a file that says whose it is lies an empty file: whose can be kept nowhere, so it is asked again.

    Args:
        folder: where they lie; made when first used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, path: Place, spec: ViewSpec, mm_per_pixel: float | None, enlarge: float) -> NDArray[np.uint8]:
        """The frame (H, W, 3) of an image file, local or by URL, from the cache or made now."""
        file = self._file(path, spec, mm_per_pixel, enlarge)
        return np.load(file) if file.exists() else self._made(file, path, spec, mm_per_pixel, enlarge).pixels

    def ensure(self, path: Place, spec: ViewSpec, mm_per_pixel: float | None, enlarge: float) -> Patient | None:
        """Have the frame in the cache; whose image it is, where the file says so."""
        file = self._file(path, spec, mm_per_pixel, enlarge)
        if not file.exists():
            return self._made(file, path, spec, mm_per_pixel, enlarge).patient
        return read_said(path).patient if file.with_suffix(NAMES_PATIENT).exists() else None

    def _made(self, file: Path, path: Place, spec: ViewSpec, mm_per_pixel: float | None, enlarge: float) -> Framed:
        made = read_frame(path, spec, mm_per_pixel=mm_per_pixel, enlarge=enlarge)
        if made.patient is not None:  # before the frame: where that is, this has been decided
            write_atomically(file.with_suffix(NAMES_PATIENT), Path.touch)
        write_atomically(file, lambda temporary: _save(temporary, made.pixels))
        return made

    def _file(self, path: Place, spec: ViewSpec, mm_per_pixel: float | None, enlarge: float) -> Path:
        try:
            stat = path.stat()
        except (OSError, ValueError):
            check_unopened(path, DEFAULT_LIMITS)  # raises with cause and remedy
            raise
        what = (READER, str(path), stat.st_size, stat.st_mtime_ns, spec, mm_per_pixel, enlarge)
        return self.folder / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.npy"


def _save(path: Path, frame: NDArray[np.uint8]) -> None:
    with path.open("wb") as stream:  # given a name, np.save would add a suffix
        np.save(stream, frame)


@dataclass(frozen=True, kw_only=True)
class CaseDataset(Dataset[Item]):
    """Cases as items.

    Attributes:
        cases: the cases.
        specs: modality -> how its pixels become input, in the network's order.
        classes: the diagnoses in order.
        extra_classes: further label column -> its values in order.
        cache: decoded images.
        training: draw augmentation, modality dropout and one image of several; otherwise the first image, unchanged.
        strength: of the augmentation.
        modality_dropout: chance that a present view is left out, never all.
        seed: of every draw.
    """

    cases: Sequence[Case]
    specs: Mapping[str, ViewSpec]
    classes: Sequence[str]
    extra_classes: Mapping[str, Sequence[str]]
    cache: FrameCache
    training: bool = False
    strength: float = 1.0
    modality_dropout: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The item of (epoch, index)."""
        epoch, index = key
        case = self.cases[index]
        rng = np.random.default_rng([self.seed, epoch, *hashlib.sha256(case.case_id.encode()).digest()[:8]])
        present = [bool(case.views.get(m)) for m in self.specs]
        frames, draws = {}, {}
        for (modality, spec), there in zip(self.specs.items(), present, strict=True):
            enlarge = augment.ENLARGE if self.training else 1.0
            if there:
                paths = case.views[modality]
                path = paths[int(rng.integers(len(paths)))] if self.training else paths[0]
                frames[modality] = self.cache.get(path, spec, case.mm_per_pixel.get(modality), enlarge)
            else:
                height, width = (round(enlarge * side) for side in spec.size)
                frames[modality] = np.zeros((height, width, 3), dtype=np.uint8)
            if self.training:
                recipe = augment.RECIPES[spec.kind]
                draws[modality] = augment.draw(recipe, rng, spec.size[1] / spec.size[0], self.strength)
        if self.training:
            present = _dropped(present, self.modality_dropout, rng)
        return Item(
            frames=frames,
            draws=draws,
            present=present,
            label=_index(case.label, self.classes),
            extra=[_index(case.extra_labels.get(c), values) for c, values in self.extra_classes.items()],
        )

    @property
    def labels(self) -> list[int]:
        """The class of each case, UNKNOWN where it is not known."""
        return [_index(case.label, self.classes) for case in self.cases]

    def collate(self, items: Sequence[Item]) -> Batch:
        """Items to a batch; augmentation is applied here, to the whole batch at once."""
        present = torch.tensor([item.present for item in items])
        images = {}
        for i, (modality, spec) in enumerate(self.specs.items()):
            frames = np.stack([item.frames[modality] for item in items])
            if self.training:
                x = augment.apply(torch.from_numpy(frames), [item.draws[modality] for item in items], spec)
                mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
                x = x.sub_(mean).div_(std)
            else:
                x = torch.from_numpy(normalise(frames, spec))
            images[modality] = (x * present[:, i, None, None, None]).contiguous(memory_format=torch.channels_last)
        return Batch(
            images=images,
            present=present,
            label=torch.tensor([item.label for item in items]),
            extra=torch.tensor([item.extra for item in items], dtype=torch.int64).reshape(len(items), -1),
        )


def _dropped(present: list[bool], rate: float, rng: np.random.Generator) -> list[bool]:
    kept = [there and bool(rng.uniform() >= rate) for there in present]
    return kept if any(kept) else present


def _index(value: str | None, values: Sequence[str]) -> int:
    return UNKNOWN if value is None or value not in values else list(values).index(value)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index); the order of an epoch depends on (seed, epoch) alone, whatever ran before.

    In training, what all processes draw for a step is the batch that one process alone would draw, and each process
    gets every class in the batch's proportion. Otherwise each case is drawn once, by one of the processes.

    Args:
        labels: (N,) class of each case.
        batch: in training, cases of a step over all processes. The last uneven batch of an epoch is left out where
            there are others; fewer cases than a batch are one step, some of them twice if they do not divide.
        shuffle: a new order each epoch: training.
        seed: of the order.
        rank, replicas: this process and how many there are; `replicas` divides `batch`.
    """

    def __init__(
        self, labels: Sequence[int], *, batch: int, shuffle: bool, seed: int = 0, rank: int = 0, replicas: int = 1
    ) -> None:
        self.labels, self.batch, self.shuffle, self.seed = np.asarray(labels), batch, shuffle, seed
        self.rank, self.replicas = rank, replicas
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        size = len(self.labels)
        if not self.shuffle:
            return len(range(self.rank, size, self.replicas))
        return (size - size % self.batch) // self.replicas if size >= self.batch else -(-size // self.replicas)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Cases with a label first: every process has some, and none waits for figures that another cannot have.
        order = np.argsort(self.labels == UNKNOWN, kind="stable")
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.labels))
            order = self._dealt(np.resize(order, len(self) * self.replicas))
        yield from ((self.epoch, int(i)) for i in order[self.rank :: self.replicas])

    def _dealt(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each batch in the order of its classes, so that dealing it out in turn spreads every class."""
        if self.replicas == 1:
            return order
        batches = (order[first : first + self.batch] for first in range(0, len(order), self.batch))
        return np.concatenate([b[np.argsort(self.labels[b], kind="stable")] for b in batches])


def warm(
    dataset: CaseDataset,
    progress: Callable[[int, int], None],
    *,
    skip_bad: bool,
    share: tuple[int, int] = (0, 1),
    on_machine: int = 1,
) -> list[tuple[Case, str]]:
    """Decode every image once into the cache, with the processors that are this process's share.

    Args:
        dataset: the cases.
        progress: called with the number of cases done and of all.
        skip_bad: list the cases that cannot be read.
        share: this process and how many there are; each begins with another part, and finds the others' in the cache.
        on_machine: how many of them share this machine's processors.

    Returns:
        The cases that cannot be read, each with its error; empty unless `skip_bad`.

    Raises:
        ImageError: an image cannot be read, or a case's are of several patients, and `skip_bad` is off; the message
            names file and row.
    """
    bad = []
    enlarge = augment.ENLARGE if dataset.training else 1.0
    first = len(dataset.cases) * share[0] // share[1]
    cases = [*dataset.cases[first:], *dataset.cases[:first]]
    look_up([path for case in cases for path in case.images if isinstance(path, Url)])

    def error_of(case: Case) -> str | None:
        try:
            check_one_patient(
                {
                    modality: [
                        dataset.cache.ensure(path, spec, case.mm_per_pixel.get(modality), enlarge)
                        for path in case.views.get(modality, ())
                    ]
                    for modality, spec in dataset.specs.items()
                }
            )
        except ImageError as error:
            return f"row {case.row}, case {case.case_id}: {error}"
        return None

    with ThreadPoolExecutor(max(1, cores() // on_machine)) as pool:
        for i, (case, error) in enumerate(zip(cases, pool.map(error_of, cases), strict=True)):
            if error is not None and not skip_bad:
                pool.shutdown(wait=False, cancel_futures=True)
                raise ImageError(f"{error} Or leave such cases out with data.skip_bad=true.")
            if error is not None:
                bad.append((case, error))
            progress(i + 1, len(cases))
    return bad
