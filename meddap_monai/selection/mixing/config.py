"""How many synthetic images join the real ones: the configuration of the stage ``mix``."""

from __future__ import annotations

from dataclasses import dataclass, field

from meddap_monai.core.configuration import check_choice, check_range
from meddap_monai.selection.mixing.ratio_search import SearchConfig

MODES = ("ratio", "double", "balance", "all", "search")
ARMS = ("mixed", "real", "synthetic", "duplicated", "shuffled")


@dataclass(frozen=True)
class MixConfig:
    """How many synthetic images join the real ones, and as which arm.

    Attributes:
        arm: "mixed" (real + synthetic); "real" (none); "synthetic" (only synthetic training images); "duplicated" (the
            real ones repeated to the count that "mixed" would have); "shuffled" (synthetic labels permuted).
        mode: "ratio" adds `ratio` times the real count of each class; "double" one synthetic per real image of
            `classes` (Repetto and de Leon 2023); "balance" fills every class up to the largest; "all" takes all kept;
            "search" finds ratio and threshold on val (`meddap_monai.selection.mixing.ratio_search`).
        ratio: synthetic per real training image of the class (MEDDAP: 0.5, 1.0, 2.0).
        classes: classes that get synthetic images; empty means all.
        order: which kept images come first: "best" by the selection's first score, or "random".
        min_score: least score of `rule` in the records' selection; None keeps the selection as it is. Images that the
            selection dropped come back when they pass (never copies), if ``scored.jsonl`` lies beside `kept`.
        rule: the score that `min_score` is about.
        search: what mode "search" tries.
        short: when a class has fewer kept images than wanted: "error" or "take" what is there.
        seed: of random draws and shuffled labels.
    """

    arm: str = "mixed"
    mode: str = "ratio"
    ratio: float = 1.0
    classes: tuple[str, ...] = ()
    order: str = "random"
    min_score: float | None = None
    rule: str = "conformal"
    search: SearchConfig = field(default_factory=SearchConfig)
    short: str = "take"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        check_choice(self.arm, ARMS, "mix#arm")
        check_choice(self.mode, MODES, "mix#mode")
        check_choice(self.order, ("best", "random"), "mix#order")
        check_choice(self.short, ("error", "take"), "mix#short")
        check_range(self.ratio, 0.0, 1000.0, "mix#ratio")
