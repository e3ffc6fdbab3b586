"""The commands. Each is thin: it reads its arguments, calls one function and says what came of it."""

# Each adds its commands, in the order of the work, which is that of `agfnet --help`.
# isort: off
from agfnet.cli import data, training, evaluation, prediction, deployment  # noqa: F401

# isort: on
from agfnet.cli.options import app

__all__ = ["app"]
