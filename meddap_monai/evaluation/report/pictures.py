"""Pictures of a report as ``data:`` addresses: real beside synthetic, what was dropped, the closest pairs."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from meddap_monai.errors import UnreadableImage
from meddap_monai.evaluation.report.material import copy_summary, dropped_rows, pictures_by_class, records_of
from meddap_monai.images.reading.recorded import open_recorded

THUMBNAIL = 112


def collect_pictures(sections: Mapping[str, Path], per_class: int) -> list[dict[str, Any]]:
    """Return rows of pictures: title, class and data URIs; real ones, kept synthetic ones, dropped ones."""
    if not per_class:
        return []
    rows = []
    real = next((records_of(sections[name]) for name in ("draw", "index") if name in sections), [])
    real = [row for row in real if row["source"] == "real"]
    kept = records_of(sections["select"]) if "select" in sections else []
    made = records_of(sections["generate"]) if "generate" in sections else []
    synthetic = [row for row in (kept or made) if row["source"] == "synthetic"]
    unseen = records_of(sections["unseen"]) if "unseen" in sections else []
    kinds = {"real": real, "synthetic": synthetic, "unseen test set": unseen}
    chosen = {kind: pictures_by_class(records, per_class) for kind, records in kinds.items()}
    for name in sorted({name for found in chosen.values() for name in found}):
        for kind, found in chosen.items():
            if name in found:
                rows.append({"kind": kind, "class": name, "images": [_picture(row) for row in found[name]]})
    return rows + _dropped_pictures(sections, made, per_class) + _closest_pictures(sections, real, made, per_class)


def _dropped_pictures(sections: Mapping[str, Path], made: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    if "select" not in sections:
        return []
    by_id = {row["id"]: row for row in made}
    images: list[dict[str, str]] = []
    for line in dropped_rows(sections["select"], 200):
        row = by_id.get(line.get("id", ""))
        if row is not None and len(images) < 2 * limit:
            why = next((line[key] for key in ("reason", "rule") if line.get(key)), "")
            images.append(_picture(row) | {"note": f"{row['class_name']}: {why}"[:80]})
    return [{"kind": "dropped by the filter", "class": "", "images": images}] if images else []


def _closest_pictures(
    sections: Mapping[str, Path], real: list[dict[str, Any]], made: list[dict[str, Any]], limit: int
) -> list[dict[str, Any]]:
    """Pairs of a synthetic image and the training image it is nearest to, the closest first."""
    found = (copy_summary(sections["select"]) if "select" in sections else None) or {}
    by_id = {row["id"]: row for row in (*real, *made)}
    images: list[dict[str, str]] = []
    for pair in found.get("closest") or []:
        synthetic, nearest = by_id.get(pair["synthetic"]), by_id.get(pair["id"])
        if synthetic and nearest and len(images) < 2 * min(limit, 4):
            images += [
                _picture(synthetic) | {"note": _pair_words(pair, found.get("thresholds") or {})},
                _picture(nearest) | {"note": "its nearest real image"},
            ]
    return [{"kind": "closest pairs", "class": "synthetic beside real", "images": images}] if images else []


def _pair_words(pair: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """Say by which distance a synthetic image counts as a copy, or how far the nearest limit is."""
    distances = pair.get("distances") or {}
    said = [f"{name} {distances[name]:.2f}, limit {thresholds[name]:.2f}" for name in thresholds if name in distances]
    return "; ".join(["synthetic, counted as a copy" if pair.get("copy") else "synthetic, no copy", *said])


def _picture(row: Mapping[str, Any]) -> dict[str, str]:
    note = row["class_name"]
    if row["source"] == "synthetic":
        note = str((row.get("synthetic") or {}).get("prompt", note))
    return {"uri": data_uri(row), "note": note[:80]}


def data_uri(record: Mapping[str, Any]) -> str:
    """Return the image of a record as a small PNG inside a ``data:`` address; empty when it cannot be read."""
    try:
        picture = open_recorded(record)
    except UnreadableImage:
        return ""
    picture.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    return png_uri(picture)


def png_uri(picture: Image.Image) -> str:
    """Return a picture as a PNG inside a ``data:`` address."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
