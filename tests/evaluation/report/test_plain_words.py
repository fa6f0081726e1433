"""What a report says in plain words: every sentence, for each kind of finding."""

from typing import Any

import pytest

from meddap_monai.evaluation.report.plain_words import filter_words, plain_words


def row(arm: str, test_set: str, low: float | None, high: float | None, verdict: str = "no evidence") -> dict[str, Any]:
    found = {"arm": arm, "reference": "real_classical", "test_set": test_set, "metric": "auc", "verdict": verdict}
    return found | {"difference": 0.02, "low": low, "high": high, "seeds": 5}


def report(verdicts: list[dict[str, Any]], seeds: int = 5, **changed: Any) -> dict[str, Any]:
    means = {"real_classical": 0.81, "real_synthetic": 0.834, "real_synthetic@b": None}
    arms = {arm: {"auc": {"mean": mean}} for arm, mean in means.items()}
    return {
        "question": "Does it help?",
        "confidence": 0.95,
        "seeds": list(range(seeds)),
        "arms": {"real_classical": "real, classical", "real_synthetic": "real and synthetic", "real_synthetic@b": "b"},
        "draw": {"benign": {"train": 30}, "malignant": {"train": 20, "test": 9}},
        "sets": {"own": {"name": "own test set", "arms": arms}, "unseen": {"name": "unseen test set", "arms": arms}},
        "stages": [{"stage": "generate", "counts": {"out": 100}}],
        "verdicts": verdicts,
    } | changed


def test_asked_found_and_sure() -> None:
    told = plain_words(report([row("real_synthetic", "own", -0.1, 0.14), row("real_synthetic", "unseen", 0.01, 0.2)]))
    assert told["asked"] == (
        "Does it help? Programs that name the class of an image learnt from 50 real images (30 benign, 20 malignant). "
        "A computer program drew 100 artificial (synthetic) ones after them. Some learnt from the real images only, "
        "others from both. All were then tested on real images of other patients: on an own test set and on an unseen "
        "test set."
    )
    assert told["found"] == (
        "No evidence that they do, and none that they harm. AUC (1 is perfect, 0.5 is guessing) on the own test set: "
        "“real, classical” 0.81; “real and synthetic” 0.83. AUC (1 is perfect, 0.5 is guessing) on the unseen test "
        "set: “real, classical” 0.81; “real and synthetic” 0.83."
    )
    assert told["sure"] == (
        "Everything was repeated 5 times with other draws of images. On the own test set the true difference to "
        "“real, classical” lies, with 95% confidence, within: “real and synthetic” -0.100 to +0.140, so it may be none "
        "at all. On the unseen test set the true difference to “real, classical” lies, with 95% confidence, within: "
        "“real and synthetic” +0.010 to +0.200, which leaves out zero."
    )


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        (1, "Everything was done once only, so that luck in training cannot be told from an effect."),
        (3, "Everything was repeated 3 times with other draws of images. At least 5 are needed to say yes or no."),
        (10, "Everything was repeated 10 times with other draws of images."),
    ],
)
def test_how_often_it_was_repeated(seeds: int, sentence: str) -> None:
    assert plain_words(report([], seeds))["sure"] == sentence


def test_what_could_not_be_computed_is_not_made_up() -> None:
    told = plain_words(report([row("real_synthetic@b", "own", None, None)]))
    assert "“b” not known." in told["found"]
    assert told["sure"] == "Everything was repeated 5 times with other draws of images."


def test_of_many_verdicts_only_the_headline_speaks() -> None:
    rows = [row("real_synthetic", "own", 0.01, 0.2, "helps") for _ in range(5)]
    assert plain_words(report(rows))["found"] == "Yes, in every comparison made here."


@pytest.mark.parametrize(("better", "said"), [(True, False), (False, True)])
def test_a_worthless_filter_and_a_missing_unseen_set_are_limits(better: bool, said: bool) -> None:
    chosen = {"stage": "select", "filter": {"better": better}}
    full = report([])
    told = plain_words(full | {"stages": [chosen], "sets": {"own": full["sets"]["own"]}})["not_shown"]
    assert told.startswith(
        "It does not show that any patient is diagnosed better, or what happens with another scanner"
    )
    assert ("There was no test set from elsewhere." in told) and "elsewhere" not in plain_words(full)["not_shown"]
    sentence = "The filter of the synthetic images could not tell the classes apart, so it vouches for none."
    assert (sentence in told) == said


def test_what_the_filter_is_worth() -> None:
    found = {"images": 30, "accuracy": 0.27, "guessed": 0.333, "auc": 0.52, "better": False}
    chosen = {"counts": {"in": 30, "out": 30}, "filter": found}
    assert filter_words(chosen) == (
        "The filter cannot tell the classes apart: on 30 real images that it had not learnt, its accuracy is 0.27 "
        "(always naming the commonest class: 0.33) and its AUC 0.52 (guessing: 0.50). That 30 of 30 were kept does not "
        "mean that they show their class."
    )
    good = filter_words(chosen | {"filter": found | {"accuracy": 0.9, "auc": None, "better": True}})
    assert good == (
        "The filter can tell the classes apart: on 30 real images that it had not learnt, its accuracy is 0.90 (always "
        "naming the commonest class: 0.33)."
    )
    assert filter_words({"filter": None}) == ""
