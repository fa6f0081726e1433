"""Every command that the documentation shows is run here at small scale: the line itself, smaller numbers after it.

The pages' places (``/data/mine``, ``runs/index``, ...) are there, made of simulated images and a tiny untrained base.
Commands that need what is not at hand, or whose work another test does, stand in `shown.py` with that reason.
"""

import csv
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from shown import ROOT, commands, why_not
from test_bundles import SEVERAL, SMALL_LDM, small

from meddap_monai.cli.main import main
from meddap_monai.phantom.simulation import write_phantom_study

SMALL = Path(__file__).with_name("small.yaml")
RUN = {page: [line for where, line in commands() if where == page and why_not(line) is None] for page, _ in commands()}
STAGES = {
    "index": ["workers=0"],
    "pretrain": ["prompts=[breast]", *[f"{key}={value}" for key, value in SMALL_LDM.items()]],
    "adapt": ["steps=2", "batch=2", "samples_per_class=0", "validation_every=0"],
    "generate": ["steps=2", "shard_size=4", "ratio=0.5"],
    "synthesize": ["steps=2", "shard_size=16", "ratio=0.5", "index#workers=0"],
    "classify": [
        "encoder=resnet10_tiny",
        "mode=scratch",
        "resolution=32",
        "steps=4",
        "batch=8",
        "validation_every=2",
        "pictures=false",
    ],
    "evaluate": ["samples=40", "pictures=1"],
    "study": ["draw={train: 6, val: 3}", "arms=[real, real_synthetic]", "seeds=[0]", "generate#ratio=1.0"],
    "infer": [],
    "remake": [],
    "join": [],
    "pack": [],
    "adapter": [],
}
"""Command -> what is added to it, so that it takes seconds."""
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class World:
    """A folder in which the pages' commands find what they name."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        for name in ("bundles", "configs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("runs", "eval", "__pycache__"))
        for seed, (name, scanner) in enumerate({"mine": "own", "other_hospital": "unseen", "new": "unseen"}.items()):
            write_phantom_study(folder / "data" / name, 9 if name != "new" else 1, 2, seed, scanner)
        self._table(folder / "data" / "mine")

    @staticmethod
    def _table(folder: Path) -> None:
        files = [path.relative_to(folder) for path in sorted(folder.rglob("IM*"))]
        with (folder / "index.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["image", "label"], *[[path.as_posix(), path.parts[0]] for path in files]])

    def place(self, page: str) -> Path:
        """The folder in which a page's reader stands: a bundle's own, else the root; both with the data."""
        folder = (self.folder / page).parents[1] if page.startswith("bundles/") else self.folder
        if not (folder / "data").exists():
            (folder / "data").symlink_to(self.folder / "data")
        (folder / "arguments.yaml").write_text(yaml.safe_dump({"config_file": "configs/train.yaml"}))
        return folder

    def words(self, line: str) -> list[str]:
        return shlex.split(re.sub(r"(?<![\w.])/data/", f"{self.folder}/data/", line))


@pytest.fixture
def world(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "world").mkdir()
    return World(tmp_path / "world", tiny_base)


def prepare(world: World, page: str) -> None:
    """Make what a page takes for granted: an index, and for some pages what came before."""
    meddap(world, ["index", "--output", "runs/index", "source=data/mine"])
    text = "\n".join(RUN[page])
    records = ["--records", "runs/index/records.jsonl"]
    if "--adapters runs/adapt " in text and not re.search(r"^torchrun.* adapt ", text, re.MULTILINE):
        meddap(world, ["adapt", *records, "--output", "runs/adapt"])
    if "hybrid.jsonl" in text:
        meddap(world, ["generate", *records, "--output", "runs/generate"])
        kept = ["--kept", "runs/generate/generated.jsonl"]
        main(["mix", *records, *kept, "--output", "runs/mix"])
    if "--models runs/seed_0 runs/seed_1" in text:
        for seed in (0, 1):
            place = ["--records", "runs/index/records.jsonl", "--output", f"runs/seed_{seed}"]
            meddap(world, ["classify", *place, f"seed={seed}"])
    if "runs/a:" in text:
        shutil.copytree("runs/index", "runs/draw")
        meddap(world, ["index", "--output", "runs/unseen", "source=data/other_hospital", "split=unseen"])
        for name in ("a", "b"):
            meddap(world, ["classify", "--records", "runs/draw/records.jsonl", "--output", f"runs/{name}"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page, lines in RUN.items() if lines])
def test_the_commands_of_a_page_run_in_their_order(page: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.place(page))
    prepare(world, page)
    for line in RUN[page]:
        print(f"\n>>> {page}: {line}", flush=True)
        words = world.words(line)
        clear(words)
        execute(world, words, page)


def clear(words: list[str]) -> None:
    """Take away what an earlier command of the page left at this one's place; another configuration is refused."""
    for name in [
        after for before, after in zip(words, words[1:], strict=False) if before in ("--output", "--output_dir")
    ]:
        if "$" not in name and words[0] != "srun":
            shutil.rmtree(name, ignore_errors=True)
    if "evaluate.yaml" not in " ".join(words) and "train.yaml" in " ".join(words):
        shutil.rmtree("models", ignore_errors=True)
        Path("models").mkdir()


def execute(world: World, words: list[str], page: str) -> None:
    if words[0] == "srun":
        words = words[words.index("torchrun") :]
    if words[0] == "sbatch":
        for task in ("0", "1"):
            inner = words[words.index("--wrap") + 1].replace("$SLURM_ARRAY_TASK_ID", task)
            execute(world, shlex.split(inner), page)
    elif words[0] == "torchrun":
        torchrun(world, words[1:], page)
    elif words[0] == "meddap":
        meddap(world, words[1:])
    elif words[:3] == ["python", "-m", "monai.bundle"]:
        bundle(world, words[3:], page)
    else:
        raise AssertionError(f"{words[0]}: nothing here runs this; add it, or name it in shown.py with the reason")


def smaller(world: World, words: list[str]) -> list[str]:
    """Return a command of `meddap` with what makes it small."""
    options: list[str] = []
    if words[0] in ("adapt", "generate", "synthesize", "remake"):
        options = ["--base", str(world.base)]
    if words[0] == "study":
        options = ["--config", str(SMALL)]
    base = [f"base={world.base}"] if words[0] == "study" else []
    return [words[0], *options, *words[1:], *base, *STAGES[words[0]]]


def meddap(world: World, words: list[str]) -> None:
    assert main(smaller(world, words)) == 0, words


def overrides(world: World, words: list[str], page: str) -> dict[str, Any]:
    """Return what makes a bundle's command small; places stay those of the command."""
    files = " ".join(words)
    name = re.search(r"bundles/(\w+)/", f"{files} {page}")
    assert name is not None
    if "study" in name[1] and "inference.yaml" in files:
        return {"models": ["runs/study/seed_0/classify/real_synthetic"]}  # the small studies have no other such arm
    found = small(name[1], world.folder, world.folder / "x" / "y", world.base)
    places = ("dataset_dir", "output_dir", "ckpt_dir", "index#source")
    found = {key: value for key, value in found.items() if key not in places}
    if "simulated" not in files and "smoke.yaml" not in files and name[1] == "meddap_study":
        found |= {"index#source": str(world.folder / "data" / "mine"), "index#workers": 0}
    if "smoke.yaml" in files:
        found |= {"grid": {}}
    if "inference.yaml" in files:
        known = yaml.safe_load(Path("configs/inference.yaml").read_text())
        found = {key: value for key, value in found.items() if key in known and not key.startswith("adapt")}
        found |= {"generate#counts": 1, "generate#steps": 2, "resolution": 32} if "generate" in known else {}
    return found


def monai_words(world: World, words: list[str], page: str, extra: dict[str, Any]) -> list[str]:
    """Return the words with the small values in place of those of the same ids."""
    added = overrides(world, words, page) | extra
    kept: list[str] = []
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        if not any(item.startswith("--") and item[2:] in added for item in (word, before)):
            kept.append(word)
    return [*kept, *[f"--{key}={value}" for key, value in added.items()]]


def bundle(world: World, words: list[str], page: str) -> None:
    if words[0] == "run":
        words = monai_words(world, words, page, {})
    before = sys.argv
    sys.argv = ["monai.bundle", *words]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before


def torchrun(world: World, words: list[str], page: str) -> None:
    """Start the line as it is, with two processes: in one launcher, or for several nodes in one launcher each."""
    start = words.index("-m")
    options, module, rest = words[:start], words[start + 1], words[start + 2 :]
    if module == "monai.bundle":
        name = re.search(r"bundles/(\w+)/", f"{' '.join(rest)} {page}")
        assert name is not None
        rest = monai_words(world, rest, page, SEVERAL[name[1]])
    else:
        device = [f"{rest[0]}#device=cpu"] if rest[0] != "study" else ["classify#device=cpu"]
        rest = [*smaller(world, rest), *device]
    nodes = next((int(word.split("=")[1]) for word in options if word.startswith("--nnodes=")), 1)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = [re.sub(r"--nproc_per_node=\d+", f"--nproc_per_node={2 // nodes}", word) for word in options]
    options = [re.sub(r"endpoint=\w+:\d+", f"endpoint=localhost:{port}", word) for word in options]
    line = [sys.executable, "-m", "torch.distributed.run", *options, "-m", module, *rest]
    started = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(nodes)
    ]
    for process in started:
        told, _ = process.communicate(timeout=300)
        assert process.returncode == 0, told[-4000:]
