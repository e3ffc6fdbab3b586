"""Commands that ask an exported network about cases: predictions and their explanations."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from agfnet.cli.options import (
    AskedTableArg,
    BatchOpt,
    PrevalenceOpt,
    ProviderOpt,
    RootOpt,
    ScaleOpt,
    SkipOpt,
    SourceArg,
    ThreadsOpt,
    ViewOpt,
    app,
    here,
)
from agfnet.console import err, errors_said, out
from agfnet.files import ready_folder


@app.command(rich_help_panel="Prediction")
def predict(
    source: SourceArg,
    table: AskedTableArg = None,
    *,
    view: ViewOpt = None,
    mm_per_pixel: ScaleOpt = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=here,
            help="Write here, .csv or .parquet, instead of the screen; with --engine, a folder.",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Predict a long table part by part: local, or ray for several processes.")
    ] = None,
    part_rows: Annotated[int | None, typer.Option(min=1, help="With --engine: rows of a part; 1000.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With --engine ray: processes; otherwise all fit.")] = None,
    address: Annotated[str | None, typer.Option(help="With --engine ray: of a cluster, or auto.")] = None,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="With --engine: ask again about images that could not be read."),
    ] = False,
    prevalence: PrevalenceOpt = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Exit code 0 although some cases could not be read; their rows stay.")
    ] = False,
    threads: ThreadsOpt = 0,
    batch: BatchOpt = 16,
    provider: ProviderOpt = "cpu",
    data_root: RootOpt = None,
) -> None:
    """Predict from an exported network, one row per case. Needs no torch.

    A case that cannot be read has its reason in the column `error`, and the exit code is 1 unless --skip-bad.

    Examples:  agfnet predict runs/first cases.csv -o predictions.csv

    agfnet predict model.agf --view clinical=photo.jpg --view ultrasound=scan.png --mm-per-pixel ultrasound=0.05

    With --engine: into a folder of Parquet files, with a quarantine of bad cases; a stopped run goes on when called
    again. TABLE may then be a folder of Parquet files, too.

    agfnet predict model.agf cases.parquet --engine local -o predicted

    agfnet predict model.agf /shared/cases --engine ray --address auto -o /shared/predicted
    """
    with errors_said():
        from agfnet.data.tablewrite import writable_table
        from agfnet.prediction.asking import asked_cases, predict_cases, say_unscaled, show
        from agfnet.prediction.bulk import predict_bulk, refuse_without_engine
        from agfnet.prediction.output import ANSWERED_BY

        if engine is not None:
            tally = predict_bulk(
                source, table, output, engine=engine, views=view or (), scales=mm_per_pixel or (), part_rows=part_rows,
                batch_size=batch, prevalence=prevalence, provider=provider, data_root=data_root, threads=threads,
                workers=workers, address=address, retry=retry,
            )  # fmt: skip
            out.print(tally.said())
            raise typer.Exit(1 if tally.quarantined and not skip_bad else 0)
        refuse_without_engine(part_rows=part_rows, workers=workers, address=address, retry=retry or None)
        if output is not None:
            writable_table(output, source=table, over=ANSWERED_BY)

        predictor, cases = asked_cases(
            source, table, view or [], threads=threads, provider=provider, data_root=data_root, prevalence=prevalence,
            scales=mm_per_pixel or [],
        )  # fmt: skip
        outcomes = predict_cases(predictor, cases, batch_size=batch)
        if view:
            say_unscaled(predictor, (warned for o in outcomes if o.prediction for warned in o.prediction.warnings))
        bad = show(predictor, outcomes, output, sys.stdout, like=table)
        if bad:
            err.print(f"{bad} of {len(outcomes)} cases could not be predicted; see the column `error`")
            if not skip_bad:
                raise typer.Exit(1)


@app.command(rich_help_panel="Prediction")
def explain(
    source: SourceArg,
    table: AskedTableArg = None,
    *,
    view: ViewOpt = None,
    mm_per_pixel: ScaleOpt = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", parser=here, help="Folder for a picture of each case and explanations.json.")
    ],
    cases: Annotated[int, typer.Option(min=1, help="At most the first so many cases of the table.")] = 20,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Of cases from DICOM files, also a report and the picture as DICOM."),
    ] = False,
    prevalence: PrevalenceOpt = None,
    skip_bad: SkipOpt = False,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Show where the evidence lies in each view, and each view's share in the decision. Needs no torch.

    Examples:  agfnet explain runs/first cases.csv -o explained --cases 5

    agfnet explain model.agf --view clinical=photo.jpg --view ultrasound=scan.png -o explained
    """
    with errors_said():
        from agfnet.prediction.asking import asked_cases, say_unscaled
        from agfnet.prediction.explanation import explain_cases

        ready_folder(folder)
        predictor, asked = asked_cases(
            source, table, view or [], threads=threads, data_root=data_root, prevalence=prevalence,
            scales=mm_per_pixel or [],
        )  # fmt: skip
        also = None
        if dicom:
            from agfnet.prediction.dicom_report import write_dicom

            also = partial(write_dicom, classes=predictor.classes, bundle_sha256=predictor.bundle.sha256)
        written = explain_cases(predictor, asked[:cases], folder, also=also, skip_bad=skip_bad)
        if view:
            say_unscaled(predictor, written.warnings)
        for path in written.files:
            out.print(str(path))
        if len(asked) > cases:
            err.print(f"the first {cases} of {len(asked)} cases are explained; --cases takes more")
        if len(written.left_out) == len(asked[:cases]):
            raise typer.Exit(1)
