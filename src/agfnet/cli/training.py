"""Commands that train: train, compare, demo; and what the network costs: summary."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from agfnet.cli.options import app, here
from agfnet.console import bar, errors_said, out, show_table


@app.command(rich_help_panel="Training")
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Change the configuration.")
    ] = None,
    *,
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration, YAML.")],
    folder: Annotated[Path, typer.Option("--out", "-o", parser=here, help="The run folder to make.")],
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validate by patient with this many folds.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, from its last complete epoch.")
    ] = False,
    devices: Annotated[int, typer.Option(min=1, help="GPUs of each node (processes, where there is no GPU).")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, each started by torchrun or srun.")] = 1,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say what a step spends its time on, and write profile.json.")
    ] = False,
) -> None:
    """Train, export, and evaluate the exported file on the validation part.

    Example:  agfnet train -c my.yaml -o runs/first training.epochs=20 data.table=parts.csv

    Example:  agfnet train -c my.yaml -o runs/first --devices 4

    Several nodes: docs/scale.md.
    """
    with errors_said():
        from agfnet.config import load_config
        from agfnet.evaluation.experiment import run, run_folds
        from agfnet.evaluation.summary import summary_markdown
        from agfnet.training.folder import check_free, train_log
        from agfnet.training.ranks import Machine, first_process

        settings = load_config(config, overrides or [])
        machine = Machine(devices, nodes, profile)
        logger = logging.getLogger("agfnet")
        if first_process():
            check_free(folder)
            logger.addHandler(train_log(folder))
        else:
            logger.setLevel(logging.WARNING)
        if folds is None:
            card = run(settings, folder, resume=resume, machine=machine)
        else:
            card = run_folds(settings, folder, folds, resume=resume, machine=machine)
        if not first_process():
            return
        out.print(summary_markdown(card))
        out.print(f"everything is in {folder}")


@app.command(rich_help_panel="Training")
def compare(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Change the plan, such as base.training.epochs=6."),
    ] = None,
    *,
    config: Annotated[Path, typer.Option("--config", "-c", help="The plan of the comparison, YAML.")],
    folder: Annotated[
        Path, typer.Option("--out", "-o", parser=here, help="Folder of the comparison; a begun one goes on.")
    ],
    row: Annotated[list[str] | None, typer.Option(help="Run only this row for now; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; they share the processor's threads.")] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no run after this time; 0 only makes the table.")
    ] = None,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the intervals.")] = 2000,
) -> None:
    """Train several methods with one recipe and several seeds, test them on the same cases, and set them side by side.

    Each run is a process of its own; called again, a comparison goes on where it was.

    Example:  agfnet compare -c configs/compare-phantom.yaml -o runs/compare --jobs 2 --minutes 120

    Some rows first:  agfnet compare -c configs/compare-phantom.yaml -o runs/compare --row AGFnet --row MMTM
    """
    with errors_said():
        from agfnet.evaluation.compare import compare as run_all
        from agfnet.evaluation.comparison_report import comparison_markdown, write_comparison
        from agfnet.evaluation.comparison_table import comparison_notes, comparison_table, results_of
        from agfnet.evaluation.plan import load_plan

        plan = load_plan(config, overrides or [])
        done = run_all(plan, folder, source=str(config), rows=row or (), jobs=jobs, minutes=minutes)
        if not results_of(plan, folder, plan.reference):
            out.print(f"not complete yet; there is a table once {plan.reference} has a finished run")
            return
        table = comparison_table(plan, folder, draws=draws)
        notes = comparison_notes(plan, table, complete=done)
        write_comparison(table, folder, notes)
        out.print(comparison_markdown(table, notes))
        out.print(f"{'complete' if done else 'not complete yet'}; everything is in {folder}")


@app.command(rich_help_panel="Training")
def demo(
    folder: Annotated[Path, typer.Option("--out", "-o", parser=here, help="Folder for everything.")] = Path("demo"),
    *,
    cases: Annotated[int, typer.Option(min=300, help="Of the phantom set.")] = 1200,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
) -> None:
    """Everything once, on synthetic cases: draw, check, split, train, export, test, calibrate, explain, report.

    Called again, it goes on.

    Example:  agfnet demo --out demo
    """
    with errors_said():
        from agfnet.evaluation.demo import demo as show_all
        from agfnet.evaluation.demo import demo_markdown, demo_paths

        result = show_all(folder, cases=cases, epochs=epochs, seed=seed, bar=bar)
        out.print(f"\n{demo_markdown(result)}")
        out.print(f"Done in {result.minutes:.1f} minutes. Open:")
        for path, what in demo_paths(result):
            out.print(f"  {path}  ({what})")
        run, own = str(folder / "both-views"), result.example
        asked = [part for view, files in own.views.items() for part in ("--view", f"{view}={files[0]}")]
        asked += [part for view, mm in own.mm_per_pixel.items() for part in ("--mm-per-pixel", f"{view}={mm:g}")]
        this = [sys.executable, "-m", "agfnet"] if Path(sys.argv[0]).name == "__main__.py" else [sys.argv[0]]
        out.print(f"Try next:\n  {shlex.join([*this, 'predict', run, *asked])}")
        out.print(f"  {shlex.join([*this, 'serve', run])}   (then open http://127.0.0.1:8000)")


@app.command(rich_help_panel="Training")
def summary(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A configuration; otherwise two views at 224 px.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder, for every view.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
    timing: Annotated[bool, typer.Option(help="Also export the network and measure it.")] = True,
) -> None:
    """Parameters, arithmetic and time of each part of the network, and the fusion's share.

    For five classes where the configuration names none, and without further labels: the heads are small.

    Example:  agfnet summary --config configs/derm7pt.yaml
    """
    with errors_said():
        from agfnet.export.costs import (
            BUDGET,
            PARAMETER_BUDGET,
            fusion_parameters,
            network_of,
            part_costs,
            summary_config,
            timings,
        )

        settings = summary_config(config, encoder)
        views = {m: v.size for m, v in settings.data.views.items()}
        network = network_of(settings)
        rows = part_costs(network, views)
        title = ", ".join(f"{m} {h}x{w}" for m, (h, w) in views.items())
        parts = [(row.name, f"{row.parameters:,}", f"{row.gflops:.3f}") for row in rows]
        show_table(title, ("part", "parameters", "GFLOPs a case"), parts)
        out.print(f"fusion and heads: {fusion_parameters(rows):,} parameters (budget {PARAMETER_BUDGET:,})")
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
