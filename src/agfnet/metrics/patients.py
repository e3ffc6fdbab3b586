"""Drawing patients: the lesions of one are alike, so a patient is drawn with all its cases or not at all."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from agfnet.metrics.weighting import FloatArray, IntArray, block_size

DRAWS = 2000


def patient_index(patients: Sequence[Hashable]) -> IntArray:
    """The patients as numbers 0 .. P-1 in the order in which they first occur.

    Args:
        patients: (n,) ids, one per case.

    Returns:
        (n,) integers.

    Raises:
        ValueError: no cases, or a case without a patient.

    >>> patient_index(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    if len(patients) == 0:
        raise ValueError("there are no cases: nothing can be drawn")
    numbers: dict[Hashable, int] = {}
    for row, patient in enumerate(patients):
        # NaN is not equal to itself: each would become a patient of its own.
        if patient is None or patient == "" or patient != patient:  # noqa: PLR0124
            raise ValueError(f"case {row} has no patient id")
        numbers.setdefault(patient, len(numbers))
    return np.array([numbers[patient] for patient in patients], dtype=np.int64)


def patient_draws(patients: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0) -> Iterator[FloatArray]:
    """Weights of the cases when as many patients as there are get drawn with replacement.

    Args:
        patients: (n,) ids, one per case.
        draws: how many times.
        seed: the same seed and patients give the same draws, so that models are compared on the same ones.

    Yields:
        Blocks (d, n) of weights, with `draws` rows in all: how often the case's patient was drawn.

    Raises:
        ValueError: no cases, a case without a patient, or no draws.

    >>> [block.shape for block in patient_draws(["a", "a", "b"], draws=5)]
    [(5, 3)]
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    index = patient_index(patients)
    n_patients = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    size = block_size(index.size)
    for start in range(0, draws, size):
        d = min(size, draws - start)
        drawn = rng.integers(0, n_patients, size=(d, n_patients)) + n_patients * np.arange(d)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=d * n_patients).reshape(d, n_patients)
        yield counts[:, index].astype(np.float64)
