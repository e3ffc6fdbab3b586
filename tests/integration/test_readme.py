"""The README's walk-through, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from drawn import draw_cases

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- walk-through(?:: (\S+))? -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """Two folders of images and a CSV, with the cases that the README names."""
    table = draw_cases(tmp_path)
    for view, suffix in (("photos", "jpg"), ("scans", "png")):
        (tmp_path / view / f"L001.{suffix}").write_bytes((tmp_path / view / f"c000-1.{suffix}").read_bytes())
    assert table.name == "cases.csv"
    table.write_text(table.read_text().replace("naevus", "melanoma"))
    return tmp_path


def test_the_walk_through(folder):
    assert len(BLOCKS) >= 6
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, text in BLOCKS:
        if name:
            # The README's configuration, with an encoder and a size that train in seconds.
            config = yaml.safe_load(text)
            for view in config["data"]["views"].values():
                assert view["size"] == [224, 224]
                view["size"] = [64, 64]
            config |= {"model": {"encoder": "test_efficientnet", "pretrained": False}, "training": {"epochs": 2}}
            (folder / name).write_text(yaml.safe_dump(config))
            continue
        for line in text.strip().splitlines():
            done = subprocess.run(
                line,
                shell=True,
                cwd=folder,
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (folder / "predictions.csv").read_text().count("\n") == 43
    assert (folder / "figures" / "summary.md").exists()


def test_commands_and_links_exist():
    root = Path(__file__).parents[2]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for target in re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in makefile, target
