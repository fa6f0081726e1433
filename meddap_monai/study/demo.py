"""The demo: simulated breast ultrasound as real DICOM files, then the whole study on it."""

from collections.abc import Sequence
from pathlib import Path

from meddap_monai import store
from meddap_monai.phantom.simulation import write_phantom_study
from meddap_monai.study import override, run_study
from meddap_monai.study.command import with_command
from meddap_monai.study.sections import load_sections


def run_demo(
    output: Path | str,
    overlays: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    trust: bool = False,
) -> Path:
    """Write two simulated scanners' DICOM folders, run ``configs/demo.yaml`` on them, return the report's path.

    Args:
        output: folder of the demo: ``dicom/own``, ``dicom/unseen`` and the study's stages.
        overlays: further YAML overlays over ``configs/demo.yaml``.
        overrides: ``ID=VALUE`` texts.
        overwrite: replace stages of another configuration.
        trust: let MONAI run code in overlays and overrides, instead of refusing it.
    """
    output = Path(output)
    sections = load_sections(["demo.yaml", *overlays], overrides, trust=trust)
    sections = with_command(sections, "demo", overlays, overrides)
    folders = {scanner: output / "dicom" / scanner for scanner in ("own", "unseen")}
    for seed, (scanner, folder) in enumerate(folders.items()):
        _simulate(folder, scanner, seed)
    places = {"index#source": str(folders["own"]), "unseen#source": str(folders["unseen"])}
    return run_study(output, override(sections, places, "demo"), overwrite)


def _simulate(folder: Path, scanner: str, seed: int) -> None:
    """Write one scanner's folder once; a folder whose marker is missing was cut short and is written again."""
    marker = folder.parent / f"{scanner}.json"
    plan = {"patients_per_class": 40 if scanner == "own" else 25, "images_per_patient": 2, "seed": seed}
    if not marker.exists():
        write_phantom_study(folder, scanner=scanner, broken=4, clips=2, **plan)
        store.write_json(marker, plan | {"scanner": scanner})
