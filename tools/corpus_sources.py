"""The folders that a base is made from: what the card says of each, and what is known of its pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

SIMULATED_LINE = (
    "Simulated breast ultrasound of this package (`meddap_monai.phantom`, scanner `own` only), the only source of the "
    "class `normal`."
)


@dataclass(frozen=True)
class Source:
    """A folder of pictures.

    Attributes:
        line: what the card says of it: data, licence, citation.
        where: columns and the values that rows must have.
        classes: only these.
        columns: its columns that become facts.
        facts: what holds for every picture of it, from its publication.
        devices: what its column "device" holds -> name without settings.
        few_patients: a class on a device may have a single patient.
        lesions: put a guessed box around the lesion of each picture (`lesion_boxes`).
    """

    line: str
    where: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    few_patients: bool = False
    lesions: bool = False


SOURCES = {
    "busbra": Source(
        "BUS-BRA, GE Logiq 5 part, rows of role `pretrain`. W. Gomez-Flores, M. J. Gregorio-Calas, W. C. de "
        "Albuquerque Pereira, BUS-BRA: A Breast Ultrasound Dataset for Assessing Computer-aided Diagnosis Systems, "
        "Medical Physics, 2023. Used, modified and distributed under its licence; the notice stands in "
        "LICENSE-BUS-BRA.txt.",
        where={"role": "pretrain"},
        columns=("birads",),
        facts={"device": "GE Logiq 5", "probe": "linear"},
        lesions=True,
    ),
    "fetal": Source(
        "Fetal Planes DB, the FU-LoRA fine-tuning subset. X. P. Burgos-Artizzu et al., Evaluation of deep "
        "convolutional neural networks for automatic classification of common maternal fetal ultrasound planes, "
        "Scientific Reports 10, 2020. CC BY 4.0; images were cropped, resized, mirrored and changed in brightness, "
        "contrast and shape.",
        facts={"probe": "convex"},
    ),
    "fetal_head": Source(
        "HC18. T. L. A. van den Heuvel, D. de Bruijn, C. L. de Korte, B. van Ginneken, Automated measurement of fetal "
        "head circumference using 2D ultrasound images, PLoS ONE 13(8), 2018. CC BY 4.0; changed likewise. One "
        "hospital and one plane: its class is its source.",
        facts={"probe": "convex"},
    ),
    "muscle": Source(
        "Leg muscles on four machines. T. J. van der Zee, A. D. Kuo, TimTrack: A drift-free algorithm for estimating "
        "geometric muscle features from ultrasound images, PLoS ONE 17(3), 2022, and the data sets it gathers. CC0 1.0 "
        "or CC BY 4.0; changed likewise. Muscle and device go together: vastus lateralis and gastrocnemius lateralis "
        "were seen by the GE Logiq E9 only, gastrocnemius medialis by the three others.",
        facts={"probe": "linear"},
        devices={
            "GE Logiq E9": "GE Logiq E9",
            "Philips HD11XE": "Philips HD11XE",
            "Telemed SmartUs LV7.5/60/128Z-2": "Telemed SmartUs",
            "Telemed LogicScan 128 LV7.5/60/96Z": "Telemed LogicScan 128",
        },
        few_patients=True,
    ),
    "lung": Source(
        "POCUS data set, its CC BY 4.0 rows. J. Born et al., Accelerating Detection of Lung Pathologies with "
        "Explainable Ultrasound Image Analysis, Applied Sciences 11(2), 2021. CC BY 4.0; changed likewise. Class and "
        "source go together: nearly all `regular` images are one author's, the `covid` ones come from publications.",
        classes=("covid", "regular"),
        facts={"probe": "convex"},
        few_patients=True,
    ),
}
"""Folders by the name of their option, with what is known of their pictures."""
