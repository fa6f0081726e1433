"""Scalars of a selection: they hold its numbers, and a class name is never a path."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meddap_monai.selection.filtering.selection_figures import write_scalars

SUMMARY = {
    "filter": {"accuracy": 0.5, "balanced_accuracy": 0.25, "auc": 0.75},
    "classes": {"../../a": {"in": 6, "kept": 1}, "b": {"in": 2, "kept": 1}},
    "acceptance": {"p": {"threshold": [0.0, 1.0], "../../a": [1.0, 0.5], "b": [1.0, 0.0]}},
    "copies": {"rate": 0.125},
}


def scalars(folder: Path) -> dict[str, list[float]]:
    board = EventAccumulator(str(folder)).Reload()
    return {tag: [point.value for point in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_scalars_are_those_of_the_summary_and_stay_inside(tmp_path: Path) -> None:
    board = tmp_path / "one" / "two" / "tensorboard"
    write_scalars(board, SUMMARY)
    assert scalars(board) == {
        "select/filter_accuracy": [0.5],
        "select/filter_balanced_accuracy": [0.25],
        "select/filter_auc": [0.75],
        "select/kept_share": [0.25],
        "select/copy_rate": [0.125],
    }
    assert scalars(board / "class_0") == {"select/accepted_share_p": [1.0, 0.5]}
    assert scalars(board / "class_1") == {"select/accepted_share_p": [1.0, 0.0]}
    outside = [path for path in tmp_path.rglob("events*") if board not in path.parents]
    assert outside == []
