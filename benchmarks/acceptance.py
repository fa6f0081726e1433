"""What a new base must reach against the one of before, on the same held-out patients; each with its figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PROBE_GAIN, KID_SHARE, HOG_AUC, HOG_AUC_GOAL, ENERGY, DEVICE = 0.05, 0.7, 0.75, 0.60, 0.20, 0.6
TISSUE = "high frequency of tissue"


@dataclass(frozen=True)
class Verdict:
    """One thing that must hold.

    Attributes:
        what: in words.
        figure: what was found.
        wanted: what it must be.
        passed: None where it could not be asked.
    """

    what: str
    figure: str
    wanted: str
    passed: bool | None


def check(new: dict[str, Any], old: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the verdicts on a new base; those against the old one only where it is there."""
    found = [_probe(new, old)]
    found += [_kid(new, old, organ) for organ in new["distance by encoder"] if organ != "all"]
    found += [_auc(new), _copies(new), *_energies(new), _devices(new)]
    return [asdict(one) for one in found]


def _probe(new: dict[str, Any], old: dict[str, Any] | None) -> Verdict:
    ours = new["usefulness by encoder"]["all"]
    text = f"at least {ours['real']:.3f} (real on real)"
    passed: bool | None = ours["synthetic"] >= ours["real"]
    if old is not None:
        before = old["usefulness by encoder"]["all"]["synthetic"] + PROBE_GAIN
        text, passed = f"{text} or {before:.3f}", passed or ours["synthetic"] >= before
    elif not passed:
        passed = None
    what = "probe trained on synthetic, tested on real: balanced accuracy over all classes"
    return Verdict(what, f"{ours['synthetic']:.3f}", text, passed)


def _kid(new: dict[str, Any], old: dict[str, Any] | None, organ: str) -> Verdict:
    ours = new["distance by encoder"][organ]["synthetic"]["kid"]
    if old is None:
        return Verdict(f"KID, {organ}", f"{ours:.4f}", f"{KID_SHARE} of the base of before", None)
    most = KID_SHARE * old["distance by encoder"][organ]["synthetic"]["kid"]
    return Verdict(f"KID, {organ}", f"{ours:.4f}", f"at most {most:.4f}", ours <= most)


def _auc(new: dict[str, Any]) -> Verdict:
    mean = float(np.mean(list(new["real_or_synthetic_auc"].values())))
    wanted = f"at most {HOG_AUC}, goal {HOG_AUC_GOAL:.2f}"
    return Verdict("real or synthetic by HOG: AUC, mean over classes", f"{mean:.3f}", wanted, mean <= HOG_AUC)


def _copies(new: dict[str, Any]) -> Verdict:
    ours, real = (new["copies"][name] for name in ("synthetic", "real held out"))
    shown = [f"{one['share']:.1%} ({one['interval'][0]:.1%} to {one['interval'][1]:.1%})" for one in (ours, real)]
    return Verdict(
        "nearer to a training image than a patient's", shown[0], f"at most {shown[1]}", ours["share"] <= real["share"]
    )


def _energies(new: dict[str, Any]) -> list[Verdict]:
    low, high = 1 - ENERGY, 1 + ENERGY
    ratios = {name: values[TISSUE] for name, values in new["energy"].items()}
    wanted = f"{low:.1f} to {high:.1f}"
    return [
        Verdict(f"{TISSUE}, {name}", f"{value:.3f}", wanted, low <= value <= high) for name, value in ratios.items()
    ]


def _devices(new: dict[str, Any]) -> Verdict:
    """The device word acts where the classifier recognises the device in that share of real images."""
    cells = [cell for devices in new["device agreement"].values() for cell in devices.values()]
    asked = [cell["synthetic"] for cell in cells if cell["real"] >= DEVICE]
    figure = f"{min(asked):.2f} at least, {np.mean(asked):.2f} in the mean" if asked else "no device to ask for"
    return Verdict("device asked for is recognised", figure, f"{DEVICE}", min(asked) >= DEVICE if asked else None)


def table(verdicts: list[dict[str, Any]]) -> str:
    """Return the verdicts as a Markdown table."""
    words = {True: "pass", False: "MISS", None: "-"}
    rows = [f"| {one['what']} | {one['figure']} | {one['wanted']} | {words[one['passed']]} |" for one in verdicts]
    return "\n".join(["| must hold | found | wanted | |", "| --- | --- | --- | --- |", *rows, ""])
