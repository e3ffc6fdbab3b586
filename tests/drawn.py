"""Drawn cases: simple pictures in which the photo's colour and the depth of the scan tell the classes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import yaml
from PIL import Image, ImageDraw

CLASSES = ("cyst", "lipoma", "naevus")


def draw_photo(label: str, rng: np.random.Generator) -> Image.Image:
    """A skin-coloured picture with a spot: dark for a naevus, pale for cyst and lipoma alike."""
    image = Image.new("RGB", (96, 72), (222, 180, 160))
    x, y, r = rng.integers(30, 66), rng.integers(25, 47), rng.integers(10, 18)
    ImageDraw.Draw(image).ellipse(
        (x - r, y - r, x + r, y + r), fill=(90, 55, 40) if label == "naevus" else (235, 195, 175)
    )
    noise = rng.normal(0, 6, (72, 96, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def draw_scan(label: str, rng: np.random.Generator) -> Image.Image:
    """A grey picture of layers with a dark (cyst), bright (lipoma) or shallow (naevus) shape."""
    layers = np.repeat(np.linspace(170, 60, 72)[:, None], 96, axis=1)
    image = Image.fromarray(layers.astype(np.uint8))
    x, y = rng.integers(30, 66), 15 if label == "naevus" else 45
    fill = {"cyst": 5, "lipoma": 230, "naevus": 40}[label]
    ImageDraw.Draw(image).ellipse((x - 18, y - 10, x + 18, y + 10), fill=fill)
    return Image.fromarray(np.clip(np.asarray(image) * rng.gamma(16, 1 / 16, (72, 96)), 0, 255).astype(np.uint8))


def draw_cases(folder: Path, patients: int = 36, seed: int = 0) -> Path:
    """Two folders of images and a table `cases.csv`; some patients have two lesions, some cases miss a view."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(patients):
        for lesion in range(1 + (p % 6 == 0)):
            label = CLASSES[p % len(CLASSES)]
            case = f"c{p:03d}-{lesion}"
            row = {"case_id": case, "patient_id": f"p{p:03d}", "label": label, "clinical": f"photos/{case}.jpg",
                   "ultrasound": f"scans/{case}.png", "border": "sharp" if label == "cyst" else "soft",
                   "site": "north" if p % 2 else "south"}  # fmt: skip
            for view, draw in (("clinical", draw_photo), ("ultrasound", draw_scan)):
                path = folder / row[view]
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(label, rng).save(path)
            if p % 11 == 5:
                row["ultrasound" if p % 2 else "clinical"] = None
            rows.append(row)
    table = folder / "cases.csv"
    pl.DataFrame(rows).write_csv(table)
    return table


def small_config(table: Path, **training: object) -> dict[str, object]:
    """A configuration that trains in seconds; a nested mapping as in the YAML file."""
    return {
        "data": {
            "table": str(table),
            "views": {
                "clinical": {"kind": "photo", "size": [64, 96]},
                "ultrasound": {"kind": "ultrasound", "size": [64, 96]},
            },
            "extra_labels": ["border"],
            "malignant": ["naevus"],
        },
        "model": {"encoder": "test_efficientnet", "pretrained": False, "fusion_options": {"width": 32}},
        "training": {"epochs": 2, "batch_size": 8, "ema": 0.5, "precision": "float32", "learning_rate": 3e-3}
        | training,
    }


def write_config(path: Path, config: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
