from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import agfnet


def test_what_type_checkers_see_is_what_is_loaded():
    (block,) = [node for node in ast.parse(Path(agfnet.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {one.asname: node.module for node in block.body for one in node.names}
    assert sorted(seen) == agfnet.__all__
    for name, module in seen.items():
        assert getattr(agfnet, name) is getattr(import_module(module), name)
