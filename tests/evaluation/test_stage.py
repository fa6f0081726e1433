"""The stage evaluate and its report: numbers, refusals, self-contained page, byte-equal when run again."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.errors import ConfigurationError, ForeignOutput, LeakedRecords, RecordsError, StageError
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.redraw import redraw
from meddap_monai.evaluation.report.content import learning_curves
from meddap_monai.evaluation.report.material import device_of, reasons, sum_stages
from meddap_monai.evaluation.report.page import render
from meddap_monai.evaluation.stage import evaluate
from tests.classifier_material import TINY
from tests.record_material import as_synthetic, write_like

CONFIG = EvaluateConfig(samples=60, pictures=2, embedding="tsne", command="meddap study configs/demo.yaml")
ARMS = {"real": "none", "real_classical": "classical", "real_synthetic_classical": "classical", "shuffled": "none"}


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 4, "val": 2, "test": 6}, size=32)


@pytest.fixture(scope="module")
def unseen(make_records: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another scanner's images without the class normal."""
    source = make_records({"unseen": 6}, size=32)
    rows = [row for row in read_records(source, full=True) if row["class_name"] != "normal"]
    scanned = [row | {"meta": {"device": "AB"[place % 2]}} for place, row in enumerate(rows)]
    return write_like(source, tmp_path_factory.mktemp("unseen"), scanned)


@pytest.fixture(scope="module")
def synthetic(records: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as `generate` and `select` leave them, from borrowed pictures."""
    root = tmp_path_factory.mktemp("synthetic")
    rows = [as_synthetic(row) for row in read_records(records, split="train", full=True)]
    rows = [row | {"synthetic": {"prompt": "<b>x</b>"}} for row in rows]
    for name, file, chosen in (("generate", "generated.jsonl", rows), ("select", "kept.jsonl", rows[2:])):
        (root / name).mkdir()
        write_records(root / name / file, chosen)
        counts = {"in": len(rows), "out": len(chosen), "rejected": len(rows) - len(chosen)}
        document = {"stage": name, "counts": counts, "state": "done", "configuration": {}}
        (root / name / "stage.json").write_text(json.dumps(document))
        (root / name / "cost.json").write_text(json.dumps({"seconds": 61.0}))
    pair = {"synthetic": rows[3]["id"], "id": rows[3]["id"].removeprefix("s-"), "copy": True}
    pair |= {"distances": {"correlation": 0.12, "tiles": 0.95}}
    copies = {"copies": 1, "of": 12, "rate": 1 / 12, "interval": [0.015, 0.354], "real_images_flagged": 0.01}
    copies |= {"closest": [pair], "thresholds": {"correlation": 0.25, "tiles": 0.9}}
    judged = {"auc": 0.52, "confusion": [[1, 2, 1], [2, 1, 1], [1, 2, 1]]}
    (root / "select" / "selection.json").write_text(json.dumps({"copies": copies, "filter": judged}))
    (root / "select" / "dropped.csv").write_text(
        f"id,reason\n{rows[0]['id']},copy of a training image\n{rows[1]['id']},label confidence\n"
    )
    return {name: root / name for name in ("generate", "select")}


@pytest.fixture(scope="module")
def runs(records: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ClassifierRun]:
    root = tmp_path_factory.mktemp("runs")
    made = []
    for arm, augmentation in ARMS.items():
        for seed in (0, 1):
            rate = 1e-3 if arm != "shuffled" else 2e-3
            few = replace(TINY, steps=6, batch=4, validation_every=3)
            config = replace(few, augmentation=augmentation, seed=seed, learning_rate=rate)
            made.append(ClassifierRun(arm, seed, classify(config, root / arm / str(seed), records=records), records))
    return made


@pytest.fixture(scope="module")
def report(
    runs: list[ClassifierRun], unseen: Path, synthetic: dict[str, Path], records: Path, tmp_path_factory
) -> Path:
    sections = {"index": records.parent, "unseen": unseen.parent, **synthetic}
    output = tmp_path_factory.mktemp("evaluate") / "out"
    return evaluate(CONFIG, output, runs=runs, unseen=unseen, sections=sections)


def test_report_json_holds_what_was_asked(report: Path) -> None:
    found = json.loads((report.parent / "report.json").read_text())
    assert set(found["arms"]) == {*ARMS, "hog"}
    assert found["heads"] == {"hog": "ridge on features of hog (has no weights)"}
    assert found["heads"]["hog"] in report.read_text()
    assert set(found["sets"]) == {"own", "unseen"}
    assert found["sets"]["own"]["masked"] is None
    assert found["sets"]["unseen"]["absent"] == ["normal"]
    assert set(found["sets"]["unseen"]["masked"]) == set(found["arms"])
    for arms in (part["arms"] for part in found["sets"].values()):
        for arm, metrics in arms.items():
            for name, value in metrics.items():
                assert value["low"] <= value["high"], (arm, name)
                assert len(value["values"]) == 2
    rows = found["sets"]["own"]["comparisons"]
    assert {row["reference"] for row in rows} == {"real_classical", "real"}
    assert {row["arm"] for row in rows if row["found"]["p_holm"] is not None} == {"real_synthetic_classical"}
    assert {(row["arm"], row["test_set"]) for row in found["verdicts"]} == {
        ("real_synthetic_classical", "own"),
        ("real_synthetic_classical", "unseen"),
    }
    assert found["sets"]["unseen"]["subgroups"], "devices A and B make a table"
    assert found["generative"]["rows"][0]["name"] == "real images of other patients"
    assert found["sections"]["select"]["reasons"] == {"copy of a training image": 1, "label confidence": 1}
    for part in found["sets"].values():
        for lines in (line for kind in part["curves"].values() for line in kind["arms"].values()):
            assert all(low <= high for low, high in zip(lines["low"], lines["high"], strict=True))


def test_costs_and_reasons_are_added_up_over_all_seeds(synthetic: dict[str, Path]) -> None:
    select, generate = synthetic["select"], synthetic["generate"]
    second = select.parent / "second"
    if not second.exists():
        shutil.copytree(select, second)
    rows = {row["stage"]: row for row in sum_stages([generate, select, second, select, select.parent / "none"])}
    assert list(rows) == ["generate", "select"]
    assert rows["select"]["runs"] == 2 and rows["select"]["seconds"] == 122.0
    assert rows["select"]["reasons"] == {"copy of a training image": 2, "label confidence": 2}
    assert rows["select"]["counts"]["rejected"] == 4
    assert rows["select"]["copies"]["copies"] == 2 and rows["select"]["copies"]["of"] == 24


@pytest.mark.parametrize(
    ("stage", "device"),
    [
        ({"configuration": {"device": "cpu"}, "device": "cuda"}, "cuda"),
        ({"configuration": {"device": "auto"}, "versions": {"torch": "2.13.0+cpu"}}, "cpu"),
        ({"configuration": {"device": "auto"}, "versions": {"torch": "2.13.0"}}, "auto"),
        ({"configuration": {"filter": {"device": "cuda:1"}}}, "cuda:1"),
        ({}, "cpu"),
    ],
)
def test_where_a_stage_ran(stage: dict, device: str) -> None:
    """A classifier's configuration is kept without its device, which does not change the result."""
    assert device_of(stage) == device


def test_reasons_that_differ_by_an_id_only_are_one_reason(tmp_path: Path) -> None:
    lines = [f"{number},exact duplicate of {number:020x}" for number in range(3)]
    (tmp_path / "rejects.csv").write_text("\n".join(["item,reason", *lines, "4,its header ends: early", ""]))
    assert reasons(tmp_path) == {"exact duplicate of another image": 3, "its header ends": 1}


def test_the_page_needs_nothing_else_and_escapes_foreign_text(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w./#-]*|http://purl\.org[\w./#-]*|http-equiv", "", page)
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    for text in (
        "Does training with synthetic images help",
        "How the verdict is reached",
        "meddap study configs/demo.yaml",
    ):
        assert text in page
    assert "copy of a training image" in page
    assert "Copies of training images: 1 of 12 (8.3 %" in page
    assert "its nearest real image" in page
    assert str(report.parent) not in page, "no path of this machine"


def test_the_page_says_what_its_numbers_are_worth(report: Path) -> None:
    page = report.read_text()
    for text in (
        "What was generated, what was dropped: the filter cannot tell the classes apart</h2>",
        "its accuracy is 0.25 (always naming the commonest class: 0.33) and its AUC 0.52 (guessing: 0.50)",
        "That 10 of 12 were kept does not mean that they show their class.",
        "(first seed: correlation below 0.25 or tiles below 0.90)",
        "two images that look unlike to the eye can lie below them",
        "synthetic, counted as a copy; correlation 0.12, limit 0.25; tiles 0.95, limit 0.90",
    ):
        assert text in page, text


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"not_deidentified": 3}, "3 of these images were not de-identified: they were taken whole"),
        ({"deidentification_unknown": 2}, "Of 2 the ultrasound region is a guess, so text may be left in them."),
        ({"not_deidentified": 0}, "De-identified: only the ultrasound regions were kept"),
    ],
)
def test_the_page_says_whether_images_are_deidentified(report: Path, counts: dict[str, int], text: str) -> None:
    document = json.loads((report.parent / "report.json").read_text())
    document["sections"]["index"]["counts"] |= counts
    document["sections"].pop("unseen")
    page = render(document)
    assert text in page
    assert ("Look before you share this page." in page) == any(counts.values())


def test_cases_are_the_surest_errors_and_right_answers_with_their_maps(report: Path, unseen: Path) -> None:
    found = json.loads((report.parent / "report.json").read_text())
    cases = found["cases"]
    assert [(case["arm"], case["kind"], case["set"]) for case in cases] == [
        (arm, kind, "unseen") for arm in ("real_classical", "real_synthetic_classical") for kind in ("wrong", "right")
    ]
    images = len(read_records(unseen))
    for wrong, right in (cases[:2], cases[2:]):
        assert wrong["of"] + right["of"] == images
        confusion = np.array(found["sets"]["unseen"]["details"][wrong["arm"]]["confusion"])
        assert confusion.sum() == 2 * images, "of both seeds; the cases are of the first"
        for case in (wrong, right):
            assert len(case["images"]) == min(CONFIG.pictures, case["of"])
            for image in case["images"]:
                true, called = re.fullmatch(r"(\w+), called (\w+) \(\d+% sure\)", image["note"]).groups()
                assert (true == called) is (case["kind"] == "right")
                assert image["uri"].startswith("data:image/png") and image["heat"].startswith("data:image/png")


def test_calibration_counts_every_prediction_once(report: Path) -> None:
    for part in json.loads((report.parent / "report.json").read_text())["sets"].values():
        for arm, bins in part["calibration"].items():
            images = sum(one["images"] for one in bins)
            assert images == np.sum(part["details"][arm]["confusion"])
            right = sum(one["images"] * one["right"] for one in bins)
            assert right == pytest.approx(np.trace(part["details"][arm]["confusion"]), abs=0.01)


def test_pictures_of_the_page_are_pictures(report: Path) -> None:
    import base64
    import io

    from PIL import Image

    found = re.findall(r'src="data:image/png;base64,([^"]+)"', report.read_text())
    assert len(found) >= 2 * 3 * 2
    assert all(Image.open(io.BytesIO(base64.b64decode(item))).size[0] > 8 for item in found)


def test_maps_show_training_synthetic_and_unseen_images_by_class(report: Path) -> None:
    maps = json.loads((report.parent / "report.json").read_text())["maps"]
    assert [(found["arm"], found["seed"]) for found in maps] == [("real_classical", 0), ("real_synthetic_classical", 0)]
    for found in maps:
        counts = {name: {label: len(at) for label, at in part.items()} for name, part in found["points"].items()}
        assert set(counts) == {"real, training", "synthetic", "unseen test set"}
        assert set(counts["real, training"]) == {"benign", "malignant", "normal"}
        assert sum(counts["synthetic"].values()) == 10
        assert set(counts["unseen test set"]) == {"benign", "malignant"}
    page = report.read_text()
    assert page.count("t-SNE") == 1
    assert '<section id="map">' in page


def test_tables_agree_with_the_report(report: Path) -> None:
    found = json.loads((report.parent / "report.json").read_text())
    value = found["sets"]["own"]["arms"]["real"]["auc"]["mean"]
    assert f"| real | {value:.3f} [" in (report.parent / "results.md").read_text()
    assert f"own,real,all,auc,{value:.6g}," in (report.parent / "results.csv").read_text()


def test_again_is_byte_equal_and_redrawing_too(
    report: Path, runs: list[ClassifierRun], unseen: Path, synthetic: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    """R13, R26."""
    sections = {"index": records.parent, "unseen": unseen.parent, **synthetic}
    again = evaluate(CONFIG, tmp_path / "again", runs=runs, unseen=unseen, sections=sections)
    for name in ("report.html", "report.json", "results.csv", "results.md"):
        assert (again.parent / name).read_bytes() == (report.parent / name).read_bytes(), name
    before = report.read_bytes()
    assert redraw(report.parent).read_bytes() == before


@pytest.mark.parametrize("layout", ["former", "empty", "list of sets"])
def test_a_report_of_another_layout_is_one_named_error_and_stays(report: Path, tmp_path: Path, layout: str) -> None:
    document = json.loads((report.parent / "report.json").read_text())
    for row in (row for found in document["sets"].values() for row in found["comparisons"]):
        del row["found"]["freedom"], row["found"]["p_value"]
    other = {"former": document, "empty": {}, "list of sets": document | {"sets": []}}
    (tmp_path / "report.json").write_text(json.dumps(other[layout]))
    (tmp_path / "results.csv").write_text("as it was")
    with pytest.raises(StageError, match=r"report\.json: has another layout than this version writes"):
        redraw(tmp_path)
    assert (tmp_path / "results.csv").read_text() == "as it was"
    assert not (tmp_path / "report.html").exists()


def test_a_run_beyond_the_configuration_is_refused(report: Path, runs: list[ClassifierRun], unseen: Path) -> None:
    with pytest.raises(ForeignOutput):
        evaluate(EvaluateConfig(samples=61), report.parent, runs=runs, unseen=unseen)


def test_a_test_image_among_the_training_images_stops_it(
    runs: list[ClassifierRun], records: Path, tmp_path: Path
) -> None:
    rows = read_records(records, full=True)
    leaked = next(row for row in rows if row["split"] == "train") | {"split": "unseen", "id": "leak"}
    folder = tmp_path / "unseen"
    folder.mkdir()
    write_records(folder / "records.jsonl", [leaked])
    with pytest.raises(LeakedRecords, match="are among its training images"):
        evaluate(CONFIG, tmp_path / "out", runs=runs[:1], unseen=folder / "records.jsonl")


@pytest.fixture
def half_seen(records: Path, unseen: Path, tmp_path: Path) -> Path:
    """The unseen set and three training images, each two pixels smaller than it was."""
    folder = tmp_path / "half_seen"
    folder.mkdir()
    rows = read_records(unseen, full=True)
    for number, row in enumerate(read_records(records, split="train", full=True)[:3]):
        with Image.open(row["image"]) as image:
            small = image.resize((image.width - 2, image.height - 2), Image.Resampling.BICUBIC)
        small.save(folder / f"seen-{number}.png")
        facts = {"id": f"seen-{number}", "split": "unseen", "sha256": pixel_hash(np.asarray(small))}
        rows.append(row | facts | {"image": str(folder / f"seen-{number}.png")})
    write_records(folder / "records.jsonl", rows)
    shutil.copy(unseen.parent / "stage.json", folder / "stage.json")
    return folder / "records.jsonl"


def test_edited_training_images_stop_it_before_anything_is_trained(
    runs: list[ClassifierRun], half_seen: Path, tmp_path: Path
) -> None:
    with pytest.raises(LeakedRecords) as caught:
        evaluate(CONFIG, tmp_path / "out", runs=runs, unseen=half_seen)
    said = str(caught.value)
    assert "3 validation, test or unseen image(s) are among its training images, 3 of them resized" in said
    assert "To leave them out, counted and listed, type evaluate#exclude_seen=true" in said
    assert not list((tmp_path / "out").glob("hog*")) + list((tmp_path / "out").glob("predictions*"))


def test_seen_images_are_left_out_when_asked_for(runs: list[ClassifierRun], half_seen: Path, tmp_path: Path) -> None:
    asked = EvaluateConfig(samples=40, hog=False, exclude_seen=True)
    page = evaluate(asked, tmp_path / "out", runs=runs[:2], unseen=half_seen).read_text()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    everything = read_records(half_seen)
    assert report["left_out"] == 3
    assert report["sets"]["unseen"]["images"] == [len(everything) - 3]
    assert json.loads((tmp_path / "out" / "stage.json").read_text())["counts"]["seen_left_out"] == 3
    assert "<b>Left out of the unseen test set:</b> 3 images that were seen in training" in page
    lines = [line.split(",") for line in (tmp_path / "out" / "seen.csv").read_text().splitlines()]
    assert lines[0] == ["item", "seen_by", "likeness", "training_sha256", "left_out_or_refused"]
    assert [line[0] for line in lines[1:]] == ["seen-0", "seen-1", "seen-2"]
    assert all(float(line[2]) >= 0.98 and line[4] == "yes" for line in lines[1:])


def test_an_unseen_set_of_seen_images_only_is_one_named_error(
    runs: list[ClassifierRun], half_seen: Path, tmp_path: Path
) -> None:
    rows = [row for row in read_records(half_seen, full=True) if row["id"].startswith("seen-")]
    write_records(half_seen, rows)
    with pytest.raises(RecordsError, match="all 3 images were seen in training; give another unseen set"):
        evaluate(EvaluateConfig(exclude_seen=True), tmp_path / "out", runs=runs[:1], unseen=half_seen)


def test_a_guard_that_saw_a_test_image_stops_it(runs: list[ClassifierRun], records: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    test = next(row for row in read_records(records, full=True) if row["split"] == "test")
    (adapter / "train_sha256.txt").write_text(test["sha256"] + "\n")
    with pytest.raises(LeakedRecords, match="adapter"):
        evaluate(CONFIG, tmp_path / "out", runs=runs[:1], guards=[adapter])


def test_synthetic_images_are_never_tested_on(
    runs: list[ClassifierRun], synthetic: dict[str, Path], tmp_path: Path
) -> None:
    """R10."""
    with pytest.raises((LeakedRecords, RecordsError), match="synthetic|no image of split"):
        evaluate(CONFIG, tmp_path / "out", runs=runs[:1], unseen=synthetic["select"] / "kept.jsonl")


def test_a_class_the_model_does_not_know_is_named(runs: list[ClassifierRun], unseen: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unseen"
    folder.mkdir()
    rows = [row | {"class_name": "cyst", "label": 0} for row in read_records(unseen, full=True)]
    write_records(folder / "records.jsonl", rows)
    with pytest.raises(RecordsError, match="class 'cyst', the model knows benign, malignant, normal"):
        evaluate(CONFIG, tmp_path / "out", runs=runs[:1], unseen=folder / "records.jsonl")


@pytest.mark.parametrize(
    ("pick", "message"), [(lambda runs: [], "got no runs"), (lambda runs: runs[:1] * 2, "occurs twice")]
)
def test_wrong_lists_of_runs_are_refused(
    runs: list[ClassifierRun], tmp_path: Path, pick: Callable[[list[ClassifierRun]], list[ClassifierRun]], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate(CONFIG, tmp_path / "out", runs=pick(runs))


def test_variants_of_other_sizes_make_a_learning_curve() -> None:
    value = {"auc": {"mean": 0.7, "low": 0.6, "high": 0.8}}
    arms = {"real@few": value, "real@many": value, "hog": value}
    found = learning_curves(arms, {"real@few": 30.0, "real@many": 90.0, "hog": 90.0}, "auc")
    assert [point["x"] for point in found["real"]] == [30.0, 90.0]
    assert len(found["hog"]) == 1


def test_one_run_without_unseen_still_makes_a_report(runs: list[ClassifierRun], tmp_path: Path) -> None:
    page = evaluate(EvaluateConfig(samples=40, hog=False), tmp_path / "out", runs=runs[:1]).read_text()
    assert "Nothing to decide" in page
    assert "t-SNE" not in page


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
def test_an_unseen_set_of_one_class_has_an_accuracy_and_no_auc(
    runs: list[ClassifierRun], unseen: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unseen"
    folder.mkdir()
    rows = [row for row in read_records(unseen, full=True) if row["class_name"] == "benign"]
    write_records(folder / "records.jsonl", rows)
    asked = EvaluateConfig(samples=40, hog=False)
    page = evaluate(asked, tmp_path / "out", runs=runs, unseen=folder / "records.jsonl")
    found = json.loads((page.parent / "report.json").read_text())["sets"]["unseen"]["arms"]["real"]
    assert found["auc"]["mean"] is None and 0 <= found["accuracy"]["mean"] <= 1


@pytest.mark.slow
def test_the_page_opens_in_a_browser(report: Path, tmp_path: Path) -> None:
    """Headless chromium renders it: not blank, wide tables inside, no script, no request."""
    from PIL import Image

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    shot = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,4000"]
    subprocess.run([*command, f"--screenshot={shot}", report.as_uri()], check=True, timeout=120, capture_output=True)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (4000, 1200)
    ink = pixels < 100
    assert 0.005 < ink.mean() < 0.3
    assert ink[:1000].any(axis=1).sum() > 150
    assert not ink[:, 1130:].any(), "nothing runs over the right edge"
    text = subprocess.run(
        [*command, "--dump-dom", report.as_uri()], check=True, timeout=120, capture_output=True, text=True
    ).stdout
    assert text.count("<svg") == 12
