"""What the files under deploy/ and the guide say, done."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import get_args

import agfnet
from agfnet.serving.guard import SMALL_BODY
from agfnet.serving.schemas import Explained, Predicted, Reason, ViewExplained, Warned
from agfnet.serving.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "deploy" / "agfnet.service").read_text(encoding="utf-8")
PROXY = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
IMAGE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_an_update_keeps_the_bundle_that_a_roll_back_needs(tmp_path):
    folder = tmp_path / "srv"
    for name in ("model.agf", "new.agf", "public.pem"):
        (tmp_path / name).write_text(name)
    steps = [*re.findall(r"^# +(install .*/srv/agfnet.*)$", UNIT, re.MULTILINE), *re.findall(r"`(.*ln -sfn.*)`", GUIDE)]
    assert len(steps) == 3
    for step in steps:
        subprocess.run(["/bin/sh", "-ec", step.replace("/srv/agfnet", str(folder))], cwd=tmp_path, check=True)
    assert (folder / "model.agf").read_text() == "new.agf"
    subprocess.run(["ln", "-sfn", "model-1.agf", "model.agf"], cwd=folder, check=True)
    assert (folder / "model.agf").read_text() == "model.agf"
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())


def test_the_proxy_keeps_large_bodies_only_where_images_are_sent_with_a_known_token():
    asking = re.search(r"location ~ \^/v1/\(predict\|explain\)\$ \{.*?\n    \}", PROXY, re.DOTALL)
    assert asking is not None
    assert "auth_request /token;" in asking[0]
    sizes = r"client_(?:max_body|body_buffer)_size (\w+);"
    assert re.findall(sizes, asking[0]) == [f"{ServiceSettings().max_body >> 20}m"] * 2
    token = re.search(r"location = /token \{.*?\n    \}", PROXY, re.DOTALL)
    assert token is not None
    assert "proxy_pass_request_body off;" in token[0]
    assert re.findall(sizes, token[0]) == [f"{ServiceSettings().max_body >> 20}m"]
    assert re.findall(sizes, PROXY.replace(asking[0], "").replace(token[0], "")) == [f"{SMALL_BODY >> 10}k"] * 2


def test_it_is_stopped_no_sooner_than_it_has_answered_what_it_accepted():
    settings = ServiceSettings()
    for found in (re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE), re.search(r"--stop-timeout (\d+)", IMAGE)):
        assert found is not None
        assert int(found[1]) > settings.timeout + settings.body_timeout + settings.audit_timeout + 1


def test_the_guide_names_every_field_of_an_answer_and_every_fault():
    source = Path(agfnet.__path__[0])
    code = "".join(path.read_text() for folder in ("data", "serving") for path in (source / folder).glob("*.py"))
    raised = re.findall(r'(?:Problem\(\d+|CodedImageError\(\s*\w+), "([a-z-]+)"', code)
    of_paths = {"missing-file", "not-a-file", "unopenable-file"}
    said = [name for own in (Predicted, Explained, ViewExplained) for name in own.model_fields]
    listed = [code for own in (Reason, Warned) for code in get_args(own.model_fields["code"].annotation)]
    told = set(re.findall(r"`([a-z0-9_-]+)`", GUIDE[GUIDE.index("### An answer") : GUIDE.index("## Sizing")]))
    assert {*raised, *said, *listed} - of_paths - told == set()
    assert len(set(raised)) > 20


def test_a_container_is_built_from_what_it_copies_alone():
    first, *kept = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", IMAGE, re.MULTILINE) for name in line.split()}
    assert {line.removeprefix("!") for line in kept if line.startswith("!")} == copied
