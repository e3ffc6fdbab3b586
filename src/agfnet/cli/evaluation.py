"""Commands that judge an exported network by labelled cases: figures, calibration, reports and checks of its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agfnet.cli.options import (
    DrawsOpt,
    OwnTableArg,
    PartOpt,
    PrevalenceOpt,
    RootOpt,
    SkipOpt,
    SourceArg,
    SubgroupOpt,
    TableArg,
    TestOpt,
    ThreadsOpt,
    app,
    here,
)
from agfnet.console import bar, errors_said, out
from agfnet.files import ready_folder
from agfnet.places import place
from agfnet.types import Place


@app.command(rich_help_panel="Evaluation")
def evaluate(
    source: SourceArg,
    table: TableArg,
    *,
    folder: Annotated[Path, typer.Option("--out", "-o", parser=here, help="Folder for figures, summary and pictures.")],
    part: PartOpt = None,
    include_test: TestOpt = False,
    subgroup: SubgroupOpt = None,
    skip_bad: SkipOpt = False,
    draws: DrawsOpt = 2000,
    prevalence: PrevalenceOpt = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_OR_BUNDLE",
            parser=here,
            help="Another network of these diagnoses, such as the one in use: also the paired differences from it.",
        ),
    ] = None,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Figures with intervals of an exported network on labelled cases, as JSON, summary and pictures. Needs no torch.

    Example:  agfnet evaluate runs/first cases.csv --part validation -o figures --subgroup site

    agfnet evaluate new.agf cases.csv --against model.agf -o accepted
    """
    with errors_said():
        from agfnet.evaluation.against import AGAINST
        from agfnet.evaluation.evaluate import evaluate as evaluate_bundle
        from agfnet.evaluation.summary import summary_markdown

        card = evaluate_bundle(
            source, table, ready_folder(folder), part=part, include_test=include_test, skip_bad=skip_bad,
            subgroups=subgroup or (), draws=draws, threads=threads, data_root=data_root, prevalence=prevalence,
            other=against,
        )  # fmt: skip
        out.print(summary_markdown(card))
        if against is not None:
            out.print((folder / AGAINST[1]).read_text(encoding="utf-8"))
        out.print(f"everything is in {folder}")


@app.command(rich_help_panel="Evaluation")
def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    table: Annotated[
        Place | None,
        typer.Argument(
            metavar="[TABLE]", parser=place, help="Calibration cases; otherwise those of the run's own table."
        ),
    ] = None,
    *,
    part: Annotated[str, typer.Option(help="The part (column `split`) that is calibrated on.")] = "calibration",
    coverage: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the diagnosis sets.")] = 0.9,
    risk: Annotated[float, typer.Option(min=0.001, max=0.5, help="Wanted share of errors among answered cases.")] = 0.1,
    false_refers: Annotated[
        float,
        typer.Option(min=0.001, max=0.2, help="Share of ordinary cases that each check of images and views may refer."),
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Fit temperature, diagnosis sets and the rule that refers on cases that were not trained on; write the bundle.

    Example:  agfnet calibrate runs/first --coverage 0.9 --risk 0.1
    """
    with errors_said():
        from agfnet.evaluation.calibrate import calibrate as fit
        from agfnet.evaluation.calibration_page import calibration_markdown
        from agfnet.prediction.bundle import read_bundle

        made = fit(
            run, table=table, data_root=data_root, part=part, coverage=coverage, risk=risk, false_refers=false_refers,
            seed=seed, threads=threads,
        )  # fmt: skip
        out.print(calibration_markdown(made, read_bundle(run).classes))
        out.print(f"the bundle in {run} is calibrated; pictures are in {run / 'calibration'}")


@app.command(rich_help_panel="Evaluation")
def report(
    source: SourceArg,
    table: OwnTableArg = None,
    *,
    folder: Annotated[
        Path, typer.Option("--out", "-o", parser=here, help="Folder for the page, its facts and the model card.")
    ],
    part: PartOpt = None,
    include_test: TestOpt = False,
    subgroup: SubgroupOpt = None,
    robustness: Annotated[Path | None, typer.Option(help="Folder that `agfnet robustness` has written.")] = None,
    skip_bad: SkipOpt = False,
    draws: DrawsOpt = 2000,
    prevalence: PrevalenceOpt = None,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """One self-contained HTML page on a network, with every figure as JSON beside it, and a model card.

    By site and reference standard, and by each --subgroup: what names a patient is no subgroup.

    Example:  agfnet report runs/first -o report --subgroup sex
    """
    with errors_said():
        from agfnet.evaluation.evaluate import data_of
        from agfnet.evaluation.report import report_facts
        from agfnet.evaluation.report_page import write_report

        cases, root = data_of(source, table, data_root)
        facts, explained = report_facts(
            source, cases, ready_folder(folder), part=part, include_test=include_test, subgroups=subgroup or (),
            robustness=robustness, skip_bad=skip_bad, draws=draws, threads=threads, data_root=root,
            prevalence=prevalence,
        )  # fmt: skip
        page = write_report(facts, explained, folder)
        out.print(f"{page}: open it in a browser; it needs nothing else")


@app.command(rich_help_panel="Evaluation")
def robustness(
    source: SourceArg,
    table: OwnTableArg = None,
    *,
    folder: Annotated[Path, typer.Option("--out", "-o", parser=here, help="Folder for figures, tables and curves.")],
    part: PartOpt = None,
    include_test: TestOpt = False,
    cases: Annotated[int | None, typer.Option(min=10, help="At most so many cases, drawn with --seed.")] = None,
    skip_bad: SkipOpt = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every corruption.")] = 0,
    draws: DrawsOpt = 2000,
    prevalence: PrevalenceOpt = None,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """How well an exported network holds when its images get worse: 15 corruptions, 5 severities, each view and all.

    Called again, it goes on where it was.

    Example:  agfnet robustness runs/first -o robustness --cases 500
    """
    with errors_said():
        from agfnet.evaluation.evaluate import data_of
        from agfnet.evaluation.robustness import robustness as ask
        from agfnet.evaluation.robustness_report import robustness_markdown, write_robustness

        asked, root = data_of(source, table, data_root)
        with bar("settings") as progress:
            made = ask(
                source, asked, ready_folder(folder), part=part, include_test=include_test, limit=cases,
                skip_bad=skip_bad, seed=seed, draws=draws, threads=threads, data_root=root, prevalence=prevalence,
                progress=progress,
            )  # fmt: skip
        write_robustness(made, folder)
        out.print(robustness_markdown(made))
        out.print(f"everything is in {folder}")


@app.command(rich_help_panel="Evaluation")
def focus(
    source: SourceArg,
    table: OwnTableArg = None,
    *,
    masks: Annotated[
        Place,
        typer.Option(
            metavar="TABLE",
            parser=place,
            help="Table with case_id and VIEW_mask: images, black where there is no evidence.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", parser=here, help="Folder for the figures.")],
    part: PartOpt = None,
    include_test: TestOpt = False,
    cases: Annotated[int | None, typer.Option(min=2, help="At most so many cases, drawn.")] = None,
    skip_bad: SkipOpt = False,
    draws: DrawsOpt = 2000,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Where a network looks, measured against evidence masks, beside what maps score that do not look.

    Example:  agfnet focus runs/first --masks phantom/truth.csv -o focus
    """
    with errors_said():
        from agfnet.evaluation.evaluate import data_of
        from agfnet.evaluation.focus import focus as measure
        from agfnet.evaluation.focus import focus_markdown, write_focus

        asked, root = data_of(source, table, data_root)
        ready_folder(folder)
        made = measure(
            source, asked, masks, part=part, include_test=include_test, limit=cases, skip_bad=skip_bad, draws=draws,
            threads=threads, data_root=root,
        )  # fmt: skip
        write_focus(made, folder)
        out.print(focus_markdown(made))
        out.print(f"everything is in {folder}")


@app.command(rich_help_panel="Evaluation")
def faithfulness(
    source: SourceArg,
    table: OwnTableArg = None,
    *,
    folder: Annotated[Path, typer.Option("--out", "-o", parser=here, help="Folder for the figures.")],
    part: PartOpt = None,
    include_test: TestOpt = False,
    cases: Annotated[int, typer.Option(min=2, help="At most so many cases, drawn.")] = 100,
    skip_bad: SkipOpt = False,
    draws: DrawsOpt = 2000,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Whether the class-evidence maps are true: deletion, insertion, occlusion, gradients, randomised weights.

    Needs no masks: the network is asked again with parts of the images blurred. Gradients need a run folder.

    Example:  agfnet faithfulness runs/first --part validation -o faithfulness
    """
    with errors_said():
        from agfnet.evaluation.evaluate import data_of
        from agfnet.evaluation.faithfulness import faithfulness as measure
        from agfnet.evaluation.faithfulness import faithfulness_markdown, write_faithfulness

        asked, root = data_of(source, table, data_root)
        ready_folder(folder)
        made = measure(
            source, asked, part=part, include_test=include_test, limit=cases, skip_bad=skip_bad, draws=draws,
            threads=threads, data_root=root,
        )  # fmt: skip
        write_faithfulness(made, folder)
        out.print(faithfulness_markdown(made))
        out.print(f"everything is in {folder}")
