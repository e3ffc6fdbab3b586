"""The application, and the arguments that several commands share."""

from __future__ import annotations

import csv
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

import agfnet
from agfnet.console import err, out
from agfnet.places import local, place, shown
from agfnet.types import RESEARCH_USE, Place

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=f"""Skin-lesion diagnosis from several views of one lesion: check, split, train, evaluate, predict.

{RESEARCH_USE}

Example:  agfnet check cases.csv && agfnet split cases.csv -o parts.csv && agfnet train -c my.yaml -o runs/first""",
)


def here(value: str | Path) -> Path:
    """A local path in UTF-8; of a URL, which as a path would be a folder of that name, it is said that it is none."""
    try:
        path = local(value)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error
    if shown(path) != str(path):
        raise typer.BadParameter(
            f"{shown(path)}: its path is not UTF-8, as what is written is. Rename file and folder."
        )
    return path


TableArg = Annotated[
    Place, typer.Argument(metavar="TABLE", parser=place, help="The case table, .csv or .parquet, local or by URL.")
]
SourceArg = Annotated[
    Path, typer.Argument(metavar="RUN_OR_BUNDLE", parser=here, help="A run folder or a bundle (model.agf).")
]
OwnTableArg = Annotated[
    Place | None,
    typer.Argument(metavar="[TABLE]", parser=place, help="The cases; otherwise those of the run's own table."),
]
AskedTableArg = Annotated[
    Place | None,
    typer.Argument(
        metavar="[TABLE]",
        parser=place,
        help="Cases, .csv or .parquet, local or by URL; without labels too.",
    ),
]
PartOpt = Annotated[
    str | None,
    typer.Option(help="Only cases of this part (column `split`); otherwise validation, or test with --include-test."),
]
TestOpt = Annotated[bool, typer.Option("--include-test", help="The test part, and no other. Once, at the end.")]
SubgroupOpt = Annotated[
    list[str] | None, typer.Option("--subgroup", metavar="COLUMN", help="Also report by this column; may be repeated.")
]
ViewOpt = Annotated[
    list[str] | None, typer.Option(metavar="MODALITY=FILE", help="One case from files; may be repeated.")
]
ScaleOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--mm-per-pixel", metavar="MODALITY=MM", help="With --view: scale of its images; may be repeated for others."
    ),
]
ViewsOpt = Annotated[
    str | None, typer.Option("--views", help="View columns, by commas; otherwise they are recognised.")
]
RootOpt = Annotated[
    Place | None, typer.Option(metavar="FOLDER", parser=place, help="Folder or URL that every image must lie in.")
]
ThreadsOpt = Annotated[int, typer.Option(min=0, max=1024, help="Processor threads; 0 lets ONNX Runtime choose.")]
ProviderOpt = Annotated[str, typer.Option(help="What computes: cpu, cuda or openvino (ONNX Runtime built for it).")]
BatchOpt = Annotated[int, typer.Option("--batch", min=1, max=4096, help="Looks that go through the network at once.")]
DrawsOpt = Annotated[int, typer.Option(min=100, help="Bootstrap draws of the intervals.")]
PrevalenceOpt = Annotated[
    str | None,
    typer.Option(
        help="Shares of all classes among your patients, CLASS=SHARE by commas: re-weights the probabilities. "
        "Diagnosis sets stay as calibrated, and answers outside them are referred."
    ),
]
SkipOpt = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out cases with unreadable images; they are counted and named.")
]


def names(value: str | None) -> tuple[str, ...] | None:
    """The parts of a list by commas, in quotes where one holds a comma."""
    if value is None:
        return None
    return tuple(part.strip() for part in next(csv.reader([value], skipinitialspace=True), ()) if part.strip())


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"agfnet {agfnet.__version__}")
        raise typer.Exit


@app.callback()
def main(
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Set up what is said, and let a polite kill stop a command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    handler: logging.Handler = logging.StreamHandler()  # lines that a pipe or a file keeps whole
    if err.is_terminal:
        handler = RichHandler(console=err, show_path=False, show_level=False, markup=False, highlighter=None)
    logging.basicConfig(format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it warns that a pyramid has no use for classifier weights
    logging.getLogger("agfnet").setLevel(logging.WARNING if quiet else logging.INFO)
