"""The stage ``cluster``: which real images to learn from, one view at a time (Repetto and de Leon 2023).

Per class: k-means on features, the images nearest to each centroid, clusters ranked by how alike their images are.
Farthest-first coreset (Sener and Savarese 2018) and random choice are the baselines.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.records import Record, class_names, read_records, write_records
from meddap_monai.errors import EmptyClass, RecordsError
from meddap_monai.selection.clustering.cluster_figures import write_cluster_figures
from meddap_monai.selection.clustering.clusters import Cluster, find_clusters
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.filtering.rule_features import of_training


def cluster(config: ClusterConfig, output: Path, *, records: Path, overwrite: bool = False) -> Path:
    """Choose representative real training images.

    Args:
        config: method and numbers.
        output: folder of the stage: ``chosen.jsonl``, ``clusters.json``, ``cluster_<label>_<rank>.jsonl`` for one
            adapter per cluster, ``features/``, ``figures/``, ``tensorboard/``.
        records: real records; only split train is looked at.
        overwrite: throw away a folder of another configuration.

    Returns:
        ``<output>/chosen.jsonl``: the chosen training records; other splits are not repeated.

    Raises:
        EmptyClass: no cluster of a class meets the limits.
    """
    output = Path(output)
    with store.open_stage(output, "cluster", config, {"records": records}, overwrite=overwrite) as stage:
        if stage.done:
            return output / "chosen.jsonl"
        everything = read_records(records, source="real", full=True)
        training = [record for record in everything if record["split"] == "train"]
        if not training:
            raise RecordsError(f"{records}: no real image in split train, expected some to choose from")
        classes = class_names(records)
        values = of_training(config.features, config.filter, training, everything, classes, output, config.seed)
        found, tried = find_clusters(config, values, training, classes)
        _write(output, training, found, tried)
        chosen = [training[row] for row in sorted({row for one in found if one.passes for row in one.rows})]
        write_records(output / "chosen.jsonl", chosen)
        write_cluster_figures(output, training, values, found, tried)
        for name in sorted({record["class_name"] for record in training}):
            if not any(record["class_name"] == name for record in chosen):
                best = max(one.similarity for one in found if one.class_name == name)
                raise EmptyClass(
                    f"{output}: class {name!r}: no cluster meets the limits (best mean similarity {best:.3f}); lower "
                    "cluster#min_similarity or raise cluster#max_deviation"
                )
        stage.finish({"in": len(training), "out": len(chosen), "rejected": len(training) - len(chosen)}, classes)
    return output / "chosen.jsonl"


def _write(
    output: Path, training: Sequence[Record], found: Sequence[Cluster], tried: dict[str, dict[str, list[float]]]
) -> None:
    listed: list[dict[str, Any]] = []
    for one in found:
        name = f"cluster_{training[one.rows[0]]['label']}_{one.number}.jsonl"
        write_records(output / name, [training[row] for row in sorted(one.rows)])
        ids = [training[row]["id"] for row in one.rows]
        listed.append({**vars(one), "records": name, "rows": None, "ids": ids})
    for entry in listed:
        del entry["rows"]
    store.write_json(output / "clusters.json", {"clusters": listed, "tried": tried})
