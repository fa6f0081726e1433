"""R11, R26: a distillation that was killed, while it drew and while it trained, ends in the bytes of a quiet one."""

from collections.abc import Callable
from pathlib import Path

from adapter_material import quick

from meddap_monai import store
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.training.checkpoint import NAME
from tests.reliability.forked import finish, kill_when, start

DISTIL = quick(
    method="lcm", rank=2, steps=8, ema=0.9, validation_images=1, validation_times=1,
    method_settings={"drawn": 1, "drawing_steps": 2},
)  # fmt: skip


def outcome(folder: Path) -> dict[str, str]:
    return {name: store.sha256_file(folder / name) for name in ("adapter.safetensors", "adapter.json")}


def test_kills_change_nothing(make_records: Callable[..., Path], tiny_base: Path, tmp_path: Path) -> None:
    records = make_records({"train": 2, "val": 1}, size=32)
    folder = tmp_path / "out"

    def run(output: Path = folder) -> None:
        adapt(DISTIL, output, records=records, base=tiny_base)

    run(tmp_path / "quiet")
    for number, reached in enumerate((lambda: any(folder.glob("cache/drawn/*/*")), (folder / NAME).exists)):
        process = start(run, tmp_path / f"log{number}")
        assert kill_when(process, reached)
        assert finish(process) != 0
    assert not (folder / "adapter.json").exists()
    run()
    assert outcome(folder) == outcome(tmp_path / "quiet")
