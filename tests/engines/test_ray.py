"""Ray: two nodes of one CPU each; whatever happens to them, results are byte for byte those of one process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import meddap_monai
from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.inference import infer
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.diffusion.generation import shards
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.engine import use_engine
from meddap_monai.errors import ConfigurationError, StageError
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.images.indexing import worker_pool
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import write_phantom_study
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RuleConfig
from meddap_monai.selection.filtering.stage import select
from meddap_monai.study.grid import Draw, run_grid
from meddap_monai.study.grid_config import GridConfig
from tests.classifier_material import TINY

ray: Any = pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
ROOT = Path(meddap_monai.__file__).parents[1]
RAY = EngineConfig(name="ray", workers=2)
GENERATE = GenerateConfig(counts=4, steps=2, scheduler="euler_ancestral", shard_size=2, batch=2, sheet_columns=2)
STAGES = ("stage.json", "plan.csv", "generated.jsonl", "sheets/*", "shards/**/*", "records.jsonl", "images/*")
SELECT = ("kept.jsonl", "scored.jsonl", "dropped.csv", "selection.json", "filter/*", "features/*")


on_the_cluster = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the actors have: networks give other last bits with other numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, which the tests have joined."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    patience = {"RAY_raylet_start_wait_time_s": "240", "RAY_gcs_rpc_server_reconnect_timeout_s": "240"}
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | patience
    here = {"object_store_memory": 80 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False} | here)
    found.add_node(num_cpus=1, **here)
    found.wait_for_nodes()
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()
    os.environ.clear()
    os.environ.update(before)


def outcome(folder: Path, patterns: tuple[str, ...] = STAGES) -> dict[str, str]:
    """Name -> hash of all results."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    assert found
    return {str(path.relative_to(folder)): store.sha256_file(path) for path in found}


@pytest.fixture(scope="module")
def quiet(records: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process generates."""
    output = tmp_path_factory.mktemp("quiet") / "out"
    generate(GENERATE, output, records=records, base=tiny_base)
    return outcome(output)


@on_the_cluster
def test_an_actor_killed_in_its_shard_is_replaced(
    quiet: dict[str, str], records: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TASK", "tests.engines.faulty:open_shards")
    with use_engine(RAY):
        generate(GENERATE, tmp_path / "out", records=records, base=tiny_base)
    assert (tmp_path / "killed").exists(), "no actor was killed"
    assert outcome(tmp_path / "out") == quiet


@on_the_cluster
def test_an_index_has_the_bytes_of_one_process(
    source: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "TOGETHER", 3)
    config = IndexConfig(source=source, key_file=key, split="train")
    for name, engine in (("one", EngineConfig()), ("ray", RAY)):
        with use_engine(engine):
            index(config, tmp_path / name)
    one, two = (outcome(tmp_path / name, (*STAGES, "rejects.csv")) for name in ("one", "ray"))
    assert one == two and len(one) == 11 + 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 11 images and a file that is none."""
    folder = tmp_path_factory.mktemp("files") / "in"
    write_phantom_study(folder, patients_per_class=2, images_per_patient=2, seed=3)
    min(path for path in folder.rglob("*") if path.is_file()).write_bytes(b"no image")
    return folder


@pytest.mark.slow
@on_the_cluster
def test_infer_gives_the_bytes_of_one_process(records: Path, source: Path, key: Path, tmp_path: Path) -> None:
    model = classify(replace(TINY, steps=2, batch=4, validation_every=2), tmp_path / "model", records=records)
    for name, engine in (("one", EngineConfig()), ("ray", RAY)):
        infer(InferConfig(rows="patient", key_file=key, engine=engine), [model], source, tmp_path / name / "table.csv")
    assert outcome(tmp_path / "one", ("table*",)) == outcome(tmp_path / "ray", ("table*",))


@on_the_cluster
def test_what_a_unit_raises_ends_the_work_under_its_own_name(tmp_path: Path) -> None:
    with use_engine(RAY) as engine:
        task = "tests.engines.adding:open_numbers"
        items = [1, 2, 3, "busy", "slow", 4, 5]
        found = dict(engine.map(task, items, {"add": 10, "once": str(tmp_path)}, twice=True))
        assert [found[place]["sum"] for place in range(7)] == [11, 12, 13, 10, 10, 14, 15], "the slow one was doubled"
        assert max(one["asked"] for one in found.values()) > 1, "an actor stays for further units"
        with pytest.raises(StageError, match="ValueError: this unit cannot be worked on"):
            list(engine.map(task, [1, "fail"], {"add": 0}))
        with pytest.raises(StageError, match="unit 0 of the work lost 3 workers, the last one was lost.*engine#memory"):
            list(engine.map(task, ["crash"], {"add": 0}))


@pytest.mark.parametrize("mode", ["probe", "scratch"])
@pytest.mark.slow
@on_the_cluster
def test_select_gives_the_bytes_of_one_process(
    mode: str, simulated_records: Path, generated: Path, tmp_path: Path
) -> None:
    filtered = FilterConfig(encoder="resnet10_tiny", mode=mode, resolution=32, folds=2, steps=4, batch=12)
    if mode == "probe":
        filtered = FilterConfig(resolution=32, folds=2)
    rules = RuleConfig(use=("conformal",), alpha=0.0, fallback=1.0)
    config = SelectConfig(filter=filtered, rules=rules, pictures=False)
    for name, engine in (("one", EngineConfig()), ("ray", RAY)):
        with use_engine(engine):
            select(config, tmp_path / name, records=simulated_records, generated=generated)
    assert outcome(tmp_path / "one", SELECT) == outcome(tmp_path / "ray", SELECT)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.selection.synthetic import CLASSES, write_generated

    pairs = [(name, name) for name in CLASSES for _ in range(6)]
    return write_generated(tmp_path_factory.mktemp("generated") / "out", pairs)


@pytest.mark.slow
@on_the_cluster
def test_a_grid_gives_the_bytes_of_one_process(make_records: Callable[..., Path], tmp_path: Path) -> None:
    train = ClassifyConfig(
        encoder="resnet10_tiny", mode="scratch", resolution=16, steps=2, batch=4, validation_every=1, pictures=False
    )
    judge = EvaluateConfig(samples=30, pictures=0, generative=False)
    draws = [Draw(seed, make_records({"train": 4, "val": 2, "test": 4}, size=32)) for seed in (0, 1)]
    common: dict[str, Any] = {"arms": ("real", "real_classical"), "fractions": (0.5, 1.0)}
    for name, engine in (("one", EngineConfig()), ("ray", RAY)):
        config = GridConfig(classify=train, evaluate=judge, encoders=("resnet10_tiny",), engine=engine, **common)
        run_grid(config, tmp_path / name, draws=draws)
    results = ("grid.csv", "grid.md", "classify/**/model.pt", "classify/**/metrics.json")
    one, two = (outcome(tmp_path / name, results) for name in ("one", "ray"))
    assert one == two and len(one) == 2 + 2 * 8


@pytest.mark.slow
def test_a_node_that_goes_takes_nothing_with_it(
    cluster: Any, quiet: dict[str, str], records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    extra = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    output = tmp_path / "out"

    def remove() -> None:
        while not list(output.glob("shards/*")):
            time.sleep(0.01)
        cluster.remove_node(extra, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    with use_engine(replace(RAY, workers=0)):  # as many as there are: three, then two
        generate(GENERATE, output, records=records, base=tiny_base)
    remover.join()
    assert outcome(output) == quiet


DRIVER = """
import ray, sys
ray.init(address=sys.argv[4], log_to_driver=False, logging_level="ERROR")
from tests.engines.test_ray import GENERATE, RAY, generate, use_engine
with use_engine(RAY):
    generate(GENERATE, sys.argv[1], records=sys.argv[2], base=sys.argv[3])
"""


@pytest.mark.slow
def test_a_killed_driver_is_started_again(
    cluster: Any, quiet: dict[str, str], records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    words = [sys.executable, "-c", DRIVER, *map(str, (output, records, tiny_base, cluster.address))]
    with subprocess.Popen(words, cwd=ROOT) as driver:
        deadline = time.monotonic() + 300
        while driver.poll() is None and not list(output.glob("shards/[0-9]*")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        driver.send_signal(signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
    assert len(list(output.glob("shards/[0-9]*"))) < 6
    with use_engine(RAY):
        generate(GENERATE, output, records=records, base=tiny_base)
    assert outcome(output) == quiet


@pytest.mark.parametrize("address", ["10.1.2.3:6379", "ray://head:10001", "auto"])
def test_a_cluster_of_others_without_a_token_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from meddap_monai.engines.on_ray import check_address

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ConfigurationError, match="without token authentication.*RAY_AUTH_MODE=token"):
        check_address(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "localhost:6379", "local"])
def test_a_cluster_of_this_machine_needs_no_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from meddap_monai.engines.on_ray import check_address

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    check_address(address)
