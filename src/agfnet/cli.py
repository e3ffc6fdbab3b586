"""The commands. Each is thin: it reads its arguments, calls one function and says what came of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.logging import RichHandler

from agfnet.console import bar, err, errors_said, escape, out, show_table
from agfnet.types import RESEARCH_USE, SYNTHETIC

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=f"""Skin-lesion diagnosis from several views of one lesion: check, split, train, evaluate, predict.

{RESEARCH_USE}

Example:  agfnet check cases.csv && agfnet split cases.csv -o parts.csv && agfnet train -c my.yaml -o runs/first""",
)

TableArg = Annotated[Path, typer.Argument(metavar="TABLE", help="The case table, .csv or .parquet.")]
SourceArg = Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle (model.agf).")]
ViewsOpt = Annotated[
    str | None, typer.Option("--views", help="View columns, by commas; otherwise they are recognised.")
]
RootOpt = Annotated[Path | None, typer.Option(help="Folder that every image must lie in.")]
ThreadsOpt = Annotated[int, typer.Option(min=0, help="Processor threads; 0 lets ONNX Runtime choose.")]
SkipOpt = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out cases with unreadable images; count and list them.")
]


def _names(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


@app.callback()
def main(*, quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say warnings only.")] = False) -> None:
    """Set up what is said."""
    handler: logging.Handler = logging.StreamHandler()  # lines that a pipe or a file keeps whole
    if err.is_terminal:
        handler = RichHandler(console=err, show_path=False, show_level=False, markup=False, highlighter=None)
    logging.basicConfig(format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it warns that a pyramid has no use for classifier weights
    logging.getLogger("agfnet").setLevel(logging.WARNING if quiet else logging.INFO)


@app.command()
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
    need_labels: Annotated[bool, typer.Option("--need-labels", help="A case without a label is a fault.")] = False,
    predict: Annotated[
        bool,
        typer.Option("--predict", help="The table is for prediction: labels and class sizes do not matter."),
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
                views=_names(views),
                classes=_names(classes),
                extra_labels=_names(extra_labels) or (),
                data_root=data_root,
                level=level,
                progress=progress,
                min_patients_per_class=0 if predict else 4,
                need_labels=need_labels,
            )
        for fault in report.faults:
            out.print(escape(str(fault)), soft_wrap=True, highlight=False)
        images = ", ".join(f"{n} {view}" for view, n in report.images.items())
        out.print(f"{report.cases} cases, {report.patients} patients; images: {images or 'none'}", highlight=False)
        for title, counts in (("classes", report.classes), ("parts", report.parts)):
            if counts:
                out.print(f"{title}: " + ", ".join(f"{n} {name}" for name, n in counts.items()), highlight=False)
        if not report.ok:
            out.print(f"[bold red]{len(report.faults)} faults[/]")
            raise typer.Exit(1)
        out.print(f"[bold green]no fault found[/] ({level} check)")


@app.command()
def split(
    table: TableArg,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The table with the column `split`, .csv or .parquet.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    fractions: Annotated[
        str, typer.Option(help="Shares of train, validation, calibration and test.")
    ] = "0.6,0.15,0.1,0.15",
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
            raise typer.BadParameter("--fractions takes four numbers by commas")
        counts = split_to_file(
            table, output, fractions={p: f for p, f in zip(PARTS, shares, strict=True) if f}, seed=seed
        )
        out.print(f"{output}: " + ", ".join(f"{n} {part}" for part, n in counts.items()), highlight=False)


@app.command()
def phantom(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
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
        out.print(f"{table}: {cases} cases; look at {output / 'sheets'}", highlight=False, soft_wrap=True)
        out.print(f"note: {SYNTHETIC}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything.")] = Path("demo"),
    *,
    cases: Annotated[int, typer.Option(min=300, help="Of the phantom set.")] = 1200,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
) -> None:
    """Everything once, on synthetic cases: draw, check, split, train, export, evaluate. Called again, it goes on.

    Example:  agfnet demo --out demo
    """
    with errors_said():
        from agfnet.evaluation.demo import demo as show_all
        from agfnet.evaluation.demo import demo_markdown, demo_paths

        result = show_all(folder, cases=cases, epochs=epochs, seed=seed, bar=bar)
        out.print(f"\n{demo_markdown(result)}", highlight=False, markup=False, soft_wrap=True)
        out.print(f"Done in {result.minutes:.1f} minutes. Open:", highlight=False)
        for path, what in demo_paths(result):
            out.print(f"  {path}  ({what})", highlight=False, markup=False, soft_wrap=True)
        views = " ".join(f"--view {view}={file}" for view, file in result.example.items())
        out.print(
            f"Try next:\n  agfnet predict {folder / 'both-views'} {views}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


@app.command()
def derm7pt(
    release: Annotated[Path, typer.Argument(metavar="RELEASE_DIR", help="The unpacked Seven-Point Checklist release.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The case table to write, .csv or .parquet.")],
    *,
    include_test: Annotated[bool, typer.Option("--include-test", help="Also write the official test part.")] = False,
) -> None:
    """Make a case table of the Seven-Point Checklist release (derm7pt): photo and dermoscopic image.

    Example:  agfnet derm7pt ~/data/derm7pt derm7pt.csv
    """
    with errors_said():
        from agfnet.data.derm7pt import derm7pt_table

        made = derm7pt_table(release, output, include_test=include_test)
        out.print(f"{output}: {made.frame.height} cases", highlight=False)
        for note in made.notes:
            out.print(f"note: {note}", highlight=False)


@app.command()
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Change the configuration.")
    ] = None,
    *,
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration, YAML.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="The run folder to make.")],
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validate by patient with this many folds.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, from its last complete epoch.")
    ] = False,
) -> None:
    """Train, export, and evaluate the exported file on the validation part.

    Example:  agfnet train -c configs/derm7pt.yaml -o runs/first training.epochs=20 data.table=cases.csv
    """
    with errors_said():
        from agfnet.config import load_config
        from agfnet.evaluation.experiment import run, run_folds
        from agfnet.evaluation.summary import summary_markdown

        settings = load_config(config, overrides or [])
        folder.mkdir(parents=True, exist_ok=True)
        log_file = logging.FileHandler(folder / "train.log", encoding="utf-8")
        log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("agfnet").addHandler(log_file)
        if folds is None:
            card = run(settings, folder, resume=resume)
        else:
            card = run_folds(settings, folder, folds, resume=resume)
        out.print(escape(summary_markdown(card)), highlight=False, soft_wrap=True)
        out.print(f"everything is in {folder}", highlight=False)


@app.command()
def compare(
    *,
    config: Annotated[Path, typer.Option("--config", "-c", help="The plan of the comparison, YAML.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder of the comparison; a begun one goes on.")],
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no run after this time; 0 only makes the table.")
    ] = None,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the intervals.")] = 2000,
) -> None:
    """Train several methods with one recipe and several seeds, test them on the same cases, and set them side by side.

    Each run is a process of its own; called again, a comparison goes on where it was.

    Example:  agfnet compare -c configs/compare-phantom.yaml -o runs/compare --minutes 120
    """
    with errors_said():
        from agfnet.evaluation.compare import compare as run_all
        from agfnet.evaluation.compare import comparison_notes, comparison_table
        from agfnet.evaluation.comparison_report import comparison_markdown, write_comparison
        from agfnet.evaluation.plan import load_plan

        plan = load_plan(config)
        done = run_all(plan, folder, source=str(config), minutes=minutes)
        table = comparison_table(plan, folder, draws=draws)
        write_comparison(table, folder, comparison_notes(plan, complete=done))
        out.print(escape(comparison_markdown(table)), highlight=False, soft_wrap=True)
        out.print(f"{'complete' if done else 'not complete yet'}; everything is in {folder}", highlight=False)


@app.command()
def evaluate(
    source: SourceArg,
    table: TableArg,
    *,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for figures, summary and pictures.")],
    part: Annotated[str | None, typer.Option(help="Only cases of this part (column `split`).")] = None,
    include_test: Annotated[
        bool, typer.Option("--include-test", help="Also use test cases. Once, at the end.")
    ] = False,
    subgroup: Annotated[list[str] | None, typer.Option(help="Also report by this column; may be repeated.")] = None,
    skip_bad: SkipOpt = False,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the intervals.")] = 2000,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Figures with intervals of an exported network on labelled cases, as JSON, summary and pictures. Needs no torch.

    Example:  agfnet evaluate runs/first cases.csv --part validation -o figures --subgroup site
    """
    with errors_said():
        from agfnet.evaluation.evaluate import evaluate as evaluate_bundle
        from agfnet.evaluation.summary import summary_markdown

        card = evaluate_bundle(
            source, table, folder, part=part, include_test=include_test, skip_bad=skip_bad,
            subgroups=subgroup or (), draws=draws, threads=threads, data_root=data_root,
        )  # fmt: skip
        out.print(escape(summary_markdown(card)), highlight=False, soft_wrap=True)
        out.print(f"everything is in {folder}", highlight=False)


@app.command()
def predict(
    source: SourceArg,
    table: Annotated[
        Path | None, typer.Argument(metavar="[TABLE]", help="Cases, .csv or .parquet; labels are not needed.")
    ] = None,
    *,
    view: Annotated[
        list[str] | None, typer.Option(metavar="MODALITY=FILE", help="One case from files; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here, .csv or .parquet, instead of the screen."),
    ] = None,
    skip_bad: SkipOpt = False,
    threads: ThreadsOpt = 0,
    data_root: RootOpt = None,
) -> None:
    """Predict from an exported network, one row per case. Needs no torch.

    A case that cannot be read has its reason in the column `error`, and the exit code is 1 unless --skip-bad.

    Examples:  agfnet predict runs/first cases.csv -o predictions.csv

    agfnet predict model.agf --view clinical=photo.jpg --view ultrasound=scan.png
    """
    with errors_said():
        from agfnet.prediction.commands import predict_table, predict_views, show

        if (table is None) == (not view):
            raise typer.BadParameter("give either a TABLE or --view MODALITY=FILE")
        if table is None:
            predictor, outcomes = predict_views(source, view or [], threads=threads)
        else:
            predictor, outcomes = predict_table(source, table, threads=threads, data_root=data_root)
        bad = show(predictor, outcomes, output, sys.stdout)
        if bad:
            err.print(
                f"{bad} of {len(outcomes)} cases could not be predicted; see the column `error`",
                highlight=False,
            )
            if not skip_bad:
                raise typer.Exit(1)


@app.command()
def summary(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A configuration; otherwise two views at 224 px.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Encoder, where no configuration is given.")] = "tf_efficientnet_lite0",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
    timing: Annotated[bool, typer.Option(help="Also export the network and measure it.")] = True,
) -> None:
    """Parameters, arithmetic and time of each part of the network, and the fusion's share.

    Example:  agfnet summary --config configs/derm7pt.yaml
    """
    with errors_said():
        from agfnet.config import load_config
        from agfnet.export.summary import BUDGET, PARAMETER_BUDGET, part_costs, timings
        from agfnet.models.network import AGFNet

        views = {"clinical": (224, 224), "ultrasound": (224, 224)}
        network = AGFNet(5, list(views), encoder)
        if config is not None:
            settings = load_config(config)
            views = {m: v.size for m, v in settings.data.views.items()}
            model = settings.model
            network = AGFNet(5, list(views), model.encoder, fusion=model.fusion, fusion_options=model.fusion_options)
        rows = part_costs(network, views)
        title = ", ".join(f"{m} {h}x{w}" for m, (h, w) in views.items())
        parts = [(row.name, f"{row.parameters:,}", f"{row.gflops:.3f}") for row in rows]
        show_table(title, ("part", "parameters", "GFLOPs a case"), parts)
        own = sum(r.parameters for r in rows if not r.name.startswith("encoder"))
        out.print(f"fusion and heads: {own:,} parameters (budget {PARAMETER_BUDGET:,})", highlight=False)
        if not timing:
            return
        times = [
            (str(t.batch), f"{t.eager:.1f}", f"{t.graph:.1f}", f"{t.speedup:.2f}", f"{t.encoders:.1f}",
             f"{t.fusion_share:.0%}", f"{BUDGET[t.batch]:.0%}")
            for t in timings(network, views, threads=threads)
        ]  # fmt: skip
        show_table(
            None,
            (
                "batch",
                "PyTorch eager, ms",
                "exported, ms",
                "times as fast",
                "encoders alone, ms",
                "fusion adds",
                "budget",
            ),
            times,
        )
