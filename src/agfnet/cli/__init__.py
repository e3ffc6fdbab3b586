"""The commands. Each is thin: it reads its arguments, calls one function and says what came of it."""

from agfnet.cli import data, deployment, evaluation, prediction, training  # noqa: F401 - each adds its commands
from agfnet.cli.options import app

__all__ = ["app"]
