"""Commands on tables and images: check, split, phantom, derm7pt, dicom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agfnet.cli.options import RootOpt, TableArg, ViewsOpt, app, here, names
from agfnet.console import bar, errors_said, out
from agfnet.types import SYNTHETIC


@app.command(rich_help_panel="Data")
def check(
    table: TableArg,
    *,
    views: ViewsOpt = None,
    classes: Annotated[
        str | None, typer.Option(help="The known diagnoses, by commas; any other label is a fault.")
    ] = None,
    extra_labels: Annotated[str | None, typer.Option(help="Further label columns, by commas.")] = None,
    data_root: RootOpt = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decode images.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also look for copies and near-copies between patients and parts.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every fault, also one that many rows have.")] = False,
    need_labels: Annotated[
        bool, typer.Option("--need-labels", help="A case of any part without a label is a fault.")
    ] = False,
    predict: Annotated[
        bool,
        typer.Option("--predict", help="The table is for prediction: labels may be missing, classes small."),
    ] = False,
) -> None:
    """Name every fault of a case table, with row and remedy; exit code 1 where there is one.

    Example:  agfnet check cases.csv --classes naevus,melanoma --deep
    """
    with errors_said():
        from agfnet.data.checks import check_table

        if quick and deep:
            raise typer.BadParameter("--quick and --deep exclude each other")
        level: Literal["quick", "decode", "deep"] = "quick" if quick else "deep" if deep else "decode"
        with bar("checking images") as progress:
            report = check_table(
                table,
                views=names(views),
                classes=names(classes),
                extra_labels=names(extra_labels) or (),
                data_root=data_root,
                level=level,
                progress=progress,
                min_patients_per_class=0 if predict else 4,
                need_labels=need_labels,
            )
        for line in map(str, report.faults) if every else report.lines():
            out.print(line)
        images = ", ".join(f"{n} {view}" for view, n in report.images.items())
        out.print(f"{report.cases} cases, {report.patients} patients; images: {images or 'none'}")
        if any(report.scaled.values()):
            known = ", ".join(f"{report.scaled[view]} of {n} {view}" for view, n in report.images.items())
            out.print(f"millimetres per pixel known: {known}")
        for title, counts in (("classes", report.classes), ("parts", report.parts)):
            if counts:
                told = ", ".join(f"{n} {name}" for name, n in counts.items())
                left = report.cases - sum(counts.values())
                told += f", {left} without a part (neither trained on nor scored)" if title == "parts" and left else ""
                out.print(f"{title}: {told}")
        renamed = any(fault.cause == "missing-column" for fault in report.faults)  # the label may be among them
        if report.cases and not predict and report.unlabelled is None and not renamed:
            out.print("no column label: fit for prediction only")
        elif report.unlabelled and not predict:
            out.print(f"cases without a label: {report.unlabelled} of {report.cases}")
        if not report.ok:
            out.print(f"{len(report.faults)} faults", style="bold red")
            raise typer.Exit(1)
        out.print(f"no fault found ({level} check)", style="bold green")


@app.command(rich_help_panel="Data")
def split(
    table: TableArg,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=here, help="The table with the column `split`, .csv or .parquet.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    fractions: Annotated[
        str, typer.Option(help="Shares of train, validation, calibration and test; 0 leaves a part out.")
    ] = "0.6,0.15,0.1,0.15",
    views: ViewsOpt = None,
) -> None:
    """Split by patient into train, validation, calibration and test, stratified by diagnosis.

    Example:  agfnet split cases.csv -o parts.csv --seed 1
    """
    with errors_said():
        from agfnet.data.split import split_to_file
        from agfnet.data.table import PARTS

        try:
            shares = [float(f) for f in fractions.split(",")]
        except ValueError as error:
            raise typer.BadParameter("--fractions takes four numbers by commas") from error
        if len(shares) != len(PARTS):
            raise typer.BadParameter("--fractions takes four numbers by commas; 0 leaves a part out")
        counts = split_to_file(
            table,
            output,
            fractions={p: f for p, f in zip(PARTS, shares, strict=True) if f},
            seed=seed,
            views=names(views),
        )
        out.print(f"{output}: " + ", ".join(f"{n} {part}" for part, n in counts.items()))


@app.command(rich_help_panel="Data")
def phantom(
    output: Annotated[Path, typer.Argument(metavar="OUT", parser=here, help="The folder to make.")],
    *,
    cases: Annotated[int, typer.Option(min=1, help="How many lesions.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    site: Annotated[
        Literal["internal", "external"],
        typer.Option(help="External: other devices, cameras and mix of skin types."),
    ] = "internal",
    size: Annotated[int, typer.Option(min=64, max=1024, help="Side of photos and width of scans, pixels.")] = 224,
    doppler: Annotated[bool, typer.Option("--doppler", help="Also make colour Doppler as a third view.")] = False,
    balanced: Annotated[bool, typer.Option("--balanced", help="All classes alike often.")] = False,
    marks: Annotated[
        Literal["some", "none", "all"], typer.Option(help="Rulers, pen, calipers and text on which images.")
    ] = "some",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; otherwise one for each processor.")] = None,
) -> None:
    """Make paired synthetic cases: photos, ultrasound, masks, every parameter, a case table and contact sheets.

    A set that was stopped goes on where it was. No figure on it is a clinical result.

    Example:  agfnet phantom phantom --cases 1000 --seed 0
    """
    with errors_said():
        from agfnet.data.phantom.generate import phantom as make

        with bar("drawing cases") as progress:
            table = make(
                output, cases=cases, seed=seed, site=site, size=size, doppler=doppler, balanced=balanced, marks=marks,
                workers=workers, progress=progress,
            )  # fmt: skip
        out.print(f"{table}: {cases} cases; look at {output / 'sheets'}")
        out.print(f"note: {SYNTHETIC}")


@app.command(rich_help_panel="Data")
def derm7pt(
    release: Annotated[
        Path, typer.Argument(metavar="RELEASE_DIR", parser=here, help="The unpacked Seven-Point Checklist release.")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", parser=here, help="The case table to write, .csv or .parquet.")
    ],
    *,
    include_test: Annotated[bool, typer.Option("--include-test", help="Also write the official test part.")] = False,
) -> None:
    """Make a case table of the Seven-Point Checklist release (derm7pt): photo and dermoscopic image.

    Example:  agfnet derm7pt ~/data/derm7pt derm7pt.csv
    """
    with errors_said():
        from agfnet.data.derm7pt import derm7pt_table

        made = derm7pt_table(release, output, include_test=include_test)
        out.print(f"{output}: {made.frame.height} cases")
        for note in made.notes:
            out.print(f"note: {note}")


@app.command(rich_help_panel="Data")
def dicom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", parser=here, help="DICOM files, also in folders within.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=here, help="The case table to write, .csv or .parquet.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(help="File with a secret, for ids that come out alike again; otherwise a random one, not kept."),
    ] = None,
) -> None:
    """Pair a folder of DICOM photos and ultrasound into a case table by patient and accession, with pseudonyms for ids.

    Example:  agfnet dicom export/ -o cases.csv --key pseudonyms.key
    """
    with errors_said():
        from agfnet.data.dicom_study import dicom_table, read_key

        with bar("reading DICOM files") as progress:
            made = dicom_table(folder, output, key=read_key(key), progress=progress)
        for name, reason in made.skipped:
            out.print(f"left out: {name}: {reason}")
        patients = made.frame["patient_id"].n_unique()
        left = f"{len(made.skipped)} DICOM files left out, {made.foreign} other files"
        out.print(f"{output}: {made.frame.height} cases, {patients} patients; {left}")
        for note in made.notes:
            out.print(f"note: {note}")
