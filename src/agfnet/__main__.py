"""`python -m agfnet`."""

from agfnet.cli import app

app()
