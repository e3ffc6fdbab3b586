"""Commands that deploy: bundle, verify, serve, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agfnet.cli.options import BatchOpt, PrevalenceOpt, ProviderOpt, SourceArg, ThreadsOpt, app, here
from agfnet.console import errors_said, out

_CALIBRATED = {True: "calibrated", False: "NOT CALIBRATED: nothing is referred (`agfnet calibrate RUN`)"}
KeyOpt = Annotated[
    Path | None, typer.Option("--public-key", help="Refuse a bundle that is not signed with this key (PEM).")
]


@app.command(rich_help_panel="Deployment")
def bundle(
    source: SourceArg,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", parser=here, help="The file to write.")],
    card: Annotated[Path | None, typer.Option(help="Model card (Markdown), such as `agfnet report` writes.")] = None,
    sign: Annotated[Path | None, typer.Option(help="Sign with this Ed25519 private key (PEM).")] = None,
) -> None:
    """Write the one file to deploy: network, preprocessing, calibration, model card, sums of all; signed if you like.

    Examples:  agfnet bundle runs/first -o model.agf --card report/model_card.md

    openssl genpkey -algorithm ed25519 -out key.pem && agfnet bundle runs/first -o model.agf --sign key.pem
    """
    with errors_said():
        from agfnet.prediction.bundle import CARD
        from agfnet.prediction.deploy import deploy

        made = deploy(source, output, card=card, key=sign)
        without = "" if card is not None or CARD in made.parts else "; without a model card (--card)"
        out.print(f"{output}: SHA-256 {made.sha256}, {_CALIBRATED[made.calibrated]}{without}")


@app.command(rich_help_panel="Deployment")
def verify(source: SourceArg, *, public_key: KeyOpt = None) -> None:
    """Check a bundle: every part's sum, and with --public-key its signature. The exit code is 1 where one does not fit.

    Example:  agfnet verify model.agf --public-key public.pem
    """
    with errors_said():
        from agfnet.prediction.bundle import read_bundle

        found = read_bundle(source)
        if public_key is not None:
            from agfnet.prediction.signature import check_signature

            found = check_signature(found, public_key)
        state = {
            "verified": "signed with this key",
            "not checked": "signed, but by whom was not checked: give --public-key",
            "none": "not signed",
        }
        told = f"format {found.facts['format']}, {_CALIBRATED[found.calibrated]}, {state[found.signed]}"
        out.print(f"{source}: whole, {told}")
        out.print(f"SHA-256 {found.sha256}")
        for name, content in found.parts.items():
            out.print(f"  {name}: {len(content):,} bytes")


@app.command(rich_help_panel="Deployment")
def serve(
    source: SourceArg,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    tokens: Annotated[
        Path | None, typer.Option(help="File with a line `name token` for each caller; or set AGFNET_TOKENS.")
    ] = None,
    audit: Annotated[Path, typer.Option(parser=here, help="The audit log's file.")] = Path("audit.sqlite"),
    queue: Annotated[int, typer.Option(min=1, help="Requests accepted and not yet answered; more get 503.")] = 32,
    timeout: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds from request to answer.")] = 30.0,
    prevalence: PrevalenceOpt = None,
    threads: ThreadsOpt = 0,
    batch: BatchOpt = 8,
    provider: ProviderOpt = "cpu",
    public_key: KeyOpt = None,
) -> None:
    """Answer over HTTP from a bundle, with a page at /. Without tokens only on this machine. Needs no torch.

    Examples:  agfnet serve model.agf

    agfnet serve model.agf --public-key public.pem --tokens tokens.txt --audit /var/lib/agfnet/audit.sqlite
    """
    with errors_said():
        from agfnet.prediction.asking import parse_prevalence, say_uncalibrated
        from agfnet.prediction.bundle import read_bundle
        from agfnet.prediction.predictor import Predictor
        from agfnet.serving.run import serve as run
        from agfnet.serving.settings import ServiceSettings, read_tokens

        settings = ServiceSettings(
            host=host, port=port, tokens=read_tokens(tokens), audit=audit, queue=queue, batch=batch, timeout=timeout
        )
        found = read_bundle(source)
        if public_key is not None:
            from agfnet.prediction.signature import check_signature

            found = check_signature(found, public_key)
        predictor = Predictor(found, threads=threads, provider=provider, prevalence=parse_prevalence(prevalence))
        say_uncalibrated(predictor)
        run(predictor, settings)


@app.command(rich_help_panel="Deployment")
def audit(
    log: Annotated[Path, typer.Argument(metavar="AUDIT_LOG", help="The audit log's file.")],
    *,
    noted: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A last hash of before: refuse a log that does not go on from it."),
    ] = None,
) -> None:
    """Check the chain of an audit log, and print its length and last hash to note elsewhere.

    Examples:  agfnet audit audit.sqlite

    agfnet audit audit.sqlite --noted 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    """
    with errors_said():
        from agfnet.serving.audit import START
        from agfnet.serving.audit import verify as check

        state = check(log, noted=START if noted is None else noted)
        out.print(f"{log}: {state.entries} entries, the chain is whole")
        out.print(f"last hash {state.last}")
