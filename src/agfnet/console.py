"""What the commands say on a terminal: text, errors, progress."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agfnet.types import AgfnetError

_EXTRAS = {
    **dict.fromkeys(("jinja2", "matplotlib", "scipy"), "evaluate"),
    **dict.fromkeys(("cryptography", "fastapi", "prometheus_client", "uvicorn"), "serve"),
    **dict.fromkeys(("highdicom", "pydicom"), "dicom"),
    **dict.fromkeys(("pyarrow", "ray"), "scale"),
}
"""Missing package -> the extra that brings it; any other comes with [train]."""
out, err = (
    Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True) for stderr in (False, True)
)
"""What is printed is text as it is: names of files, columns and classes may hold brackets and colons."""


@contextmanager
def errors_said() -> Iterator[None]:
    """A fault of the input is one message on standard error and exit code 1, never a traceback."""
    try:
        yield
    except AgfnetError as error:
        _say_error(str(error))
        raise typer.Exit(1) from error
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("agfnet"):
            raise
        remedy = f"pip install 'agfnet[{_EXTRAS.get(error.name or '', 'train')}]'"
        _say_error(f"this command needs {error.name}: {remedy}")
        raise typer.Exit(1) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = ". Make room there, and call again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        _say_error(where + (error.strerror or str(error)) + remedy)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        err.print(
            "stopped. `train` goes on with --resume; `phantom`, `demo`, `compare`, `robustness`, `check --deep` and "
            "`predict --engine` when called again; any other command begins anew."
        )
        raise typer.Exit(130) from error


def _say_error(text: str) -> None:
    err.print(Text.assemble(("error", "bold red"), f": {text}"))


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; gives the function that moves it: done, all."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def show_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False)
