"""R35: where no arm is better, the intervals hold zero as often as they say and a report seldom says "helps"."""

from collections.abc import Callable

import pytest

from tests.statistics.null_reports import Setting, Tally, tally

QUICK = [
    (Setting(seeds=5, training=1.0, patient=0.0, own="separate", candidates=2, patients=90), 60),
    (Setting(seeds=20, training=0.05, patient=2.0, own="overlap", patients=60), 50),
]
FULL = [
    Setting(5, 0.05, 0.0, "separate"),
    Setting(5, 0.15, 0.0, "overlap"),
    Setting(5, 0.3, 0.0, "separate", patients=200),
    Setting(5, 0.6, 0.0, "separate"),
    Setting(5, 1.0, 0.0, "separate", candidates=2),
    Setting(10, 0.05, 0.3, "overlap"),
    Setting(10, 0.1, 1.0, "overlap"),
    Setting(10, 0.15, 0.8, "overlap"),
    Setting(10, 0.3, 0.3, "separate"),
    Setting(10, 0.05, 2.0, "overlap"),
    Setting(20, 0.05, 2.0, "overlap"),
]
"""Few seeds of large spread, many seeds of common patients, and milder studies between and around them."""


def shares(found: Tally, name: str) -> tuple[float, float]:
    return found.covered[name] / found.compared[name], found.helps[name] / found.compared[name]


@pytest.mark.parametrize(("setting", "reports"), QUICK, ids=str)
def test_no_effect_is_not_called_one(setting: Setting, reports: int) -> None:
    """Seeds resampled, with patients drawn anew for each, held zero 83 % and on the own sets 63 % of the time."""
    found = tally(setting, reports, samples=100)
    for name in ("own", "unseen"):
        assert found.compared[name] == reports * setting.candidates
        assert shares(found, name)[0] >= 0.88, name
    assert found.misled <= 0.05 * reports


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("setting", FULL, ids=str)
def test_intervals_hold_what_they_promise(setting: Setting, record_property: Callable[[str, object], None]) -> None:
    reports = 1000
    found = tally(setting, reports)
    record_property("simulated reports", reports)
    record_property('share with a false "helps"', found.misled / reports)
    for name in ("own", "unseen"):
        record_property(f"coverage on the {name} set", shares(found, name)[0])
    for name in ("own", "unseen"):
        covered, helps = shares(found, name)
        assert 0.93 <= covered <= 0.97, name
        assert helps <= 0.03, name
    assert found.misled <= 0.05 * reports
