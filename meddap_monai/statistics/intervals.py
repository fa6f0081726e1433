"""How far a mean over trainings may be off, given which patients were tested and how training fell out.

Seeds and patients are crossed: a patient is tested by every seed whose test set holds it. The variance of a mean over
S seeds is therefore that of the seeds' values plus what they share through common patients, here called `shared`:

    Var(mean) = s^2 / S + shared

s^2 is the sample variance of the seeds' values; it contains the training and all chance of a single seed, so nothing
is counted twice. `shared` is the mean covariance of two different seeds under one bootstrap of patients. This is the
analysis of many readers and many cases of Obuchowski and Rockette (1995) with seeds for readers; the degrees of
freedom are Satterthwaite's (1946), as Hillis (2007) found necessary for few readers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from meddap_monai.core.seeds import derive_seed

POWER = 0.8
"""Of the difference that is called detectable."""


class PatientDraws:
    """Bootstrap draws of patients; one patient counts alike in every run and test set that holds it.

    Args:
        patients: patient or group names, in any order and number.
        samples: replicates B.
        seed: of the evaluation.
    """

    def __init__(self, patients: Iterable[str], samples: int, seed: int) -> None:
        self.names = np.unique(np.asarray(list(patients), dtype=str))
        rng = np.random.default_rng(derive_seed(seed, "statistics/patients"))
        count = len(self.names)
        self.counts = rng.multinomial(count, np.full(count, 1 / count), size=samples)

    def weights(self, patients: Sequence[str]) -> np.ndarray:
        """Return how often each image counts: ``(1 + B, N)`` float, once each in row 0, as drawn in the others.

        Args:
            patients: of the N images; all known to these draws.
        """
        places = np.searchsorted(self.names, np.asarray(patients, dtype=str))
        return np.vstack([np.ones(len(places)), self.counts[:, places]])


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how sure it is; every field is ``(...)``, whatever a seed's value is.

    Attributes:
        mean: over the seeds.
        error: its standard error.
        freedom: degrees of freedom of the standard error.
    """

    mean: np.ndarray
    error: np.ndarray
    freedom: np.ndarray

    def interval(self, confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)) -> np.ndarray:
        """Return the ends ``(2, ...)`` of the t interval, cut where the value itself cannot go."""
        reach = stats.t.ppf((1 + confidence) / 2, self.freedom) * self.error
        ends: np.ndarray = np.clip(np.stack([self.mean - reach, self.mean + reach]), *bounds)
        return ends

    def p_value(self) -> np.ndarray:
        """Return the two-sided p-value of a mean of zero; below 1 - confidence where the interval leaves zero out."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.where(self.mean == 0, 0.0, np.abs(self.mean) / self.error)
        value: np.ndarray = 2 * stats.t.sf(distance, self.freedom)
        return value

    def detectable(self, level: float = 0.05) -> np.ndarray:
        """Return the difference from zero that would be found with 80 % power at a two-sided level."""
        quantiles = stats.t.ppf(1 - level / 2, self.freedom) + stats.t.ppf(POWER, self.freedom)
        difference: np.ndarray = quantiles * self.error
        return difference


def over_seeds(values: np.ndarray, patients: int) -> Estimate:
    """Estimate a mean over seeds whose test sets may share patients.

    One seed tells nothing about training: its error is that of the patients alone.

    Args:
        values: ``(S, 1 + B, ...)`` of each seed under the weights of `PatientDraws`; a replicate that is NaN for one
            seed is left out.
        patients: different ones tested, for the degrees of freedom of what they share.
    """
    seeds, found = len(values), values[:, 0]
    mean = found.mean(axis=0)
    drawn = np.where(np.isfinite(values[:, 1:]).all(axis=0), values[:, 1:], np.nan)
    together, alone = _variance(drawn.mean(axis=0)), _variance(drawn.swapaxes(0, 1)).mean(axis=0)
    if seeds == 1:
        spread, shared = np.zeros_like(mean), together
    else:
        spread = found.var(axis=0, ddof=1) / seeds
        shared = np.maximum((seeds * together - alone) / (seeds - 1), 0.0)
    total = spread + shared
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / (spread**2 / max(seeds - 1, 1) + shared**2 / max(patients - 1, 1))
    freedom = np.where(total > 0, freedom, max(seeds - 1, 1))
    return Estimate(mean, np.where(np.isfinite(mean), np.sqrt(total), np.nan), freedom)


def _variance(replicates: np.ndarray) -> np.ndarray:
    """Sample variance over the first axis, NaN left out; NaN below two replicates."""
    count = np.isfinite(replicates).sum(axis=0)
    centred = np.where(np.isfinite(replicates), replicates, 0.0)
    mean = centred.sum(axis=0) / np.maximum(count, 1)
    squares = np.where(np.isfinite(replicates), (replicates - mean) ** 2, 0.0).sum(axis=0)
    return np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan)
