"""The `clead` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli_doctor import doctor
from app.cli_prune import prune
from app.cli_token import token_commands
from app.client import ApiError, Client
from app.settings import settings_or_exit

# Heavy modules (torch, uvicorn, Alembic) are imported by the command that needs them: `clead --help` stays quick.

cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, attack, compare and serve robust image classifiers.",
)
cli.add_typer(token_commands, name="token")
cli.command()(doctor)
cli.command()(prune)
console = Console()

Url = Annotated[str, typer.Option("--url", envvar="CLEAD_URL", help="address of the service")]
Token = Annotated[str | None, typer.Option("--token", envvar="CLEAD_TOKEN", help="API token, where one is needed")]
DEFAULT_URL = "http://127.0.0.1:8000"
REQUIREMENT_NOT_MET = 3
WHOLE_LINES = 10_000
"""A width that cuts nothing, for what is piped."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on [CLEAD_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0: any free one [CLEAD_PORT]")] = None,
    home: Annotated[Path | None, typer.Option(help="folder of everything kept [CLEAD_HOME]")] = None,
) -> None:
    """Start the API and one worker on this machine."""
    from app.serve import ServeError
    from app.serve import serve as run

    given: dict[str, Any] = {"host": host, "port": port, "home": home}
    settings = settings_or_exit(**{name: value for name, value in given.items() if value is not None})

    def ready(url: str) -> None:
        console.print(f"clead is ready at [bold]{url}[/bold]  (API: {url}/docs, data: {escape(str(settings.home))})")
        console.print("Ctrl-C stops it; running jobs go on from their last checkpoint at the next start.")

    try:
        run(settings, on_ready=ready)
    except ServeError as error:
        _fail(str(error))


@cli.command()
def worker(
    queues: Annotated[str, typer.Option(help="queues to serve, separated by commas")] = "train,evaluate",
) -> None:
    """Start a worker for the database, broker and storage that the settings name."""
    # The API's side never imports the worker's; this process becomes one.
    os.execv(sys.executable, [sys.executable, "-m", "worker.main", "--queues", queues])


@cli.command()
def reaper() -> None:
    """End jobs whose worker died and which nobody may take up again, also while no worker lives."""
    os.execv(sys.executable, [sys.executable, "-m", "worker.reaper"])


@cli.command()
def flower(
    port: Annotated[int, typer.Option(min=0, max=65535)] = 5555,
    address: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Start Flower: a page with the workers, tasks and queues of a Redis broker. It can only look."""
    from importlib.util import find_spec

    from kombu.entity import Queue

    from app.queue import QUEUES, create_celery

    if find_spec("flower") is None:
        _fail("Flower is not installed; in the checkout: pip install -e '.[monitoring]'")
    celery = create_celery(settings_or_exit())
    shown = [Queue(name) for name in QUEUES]  # type: ignore[no-untyped-call]
    celery.conf.update(task_default_queue=QUEUES[0], task_queues=shown)
    celery.start(["flower", f"--port={port}", f"--address={address}"])


@cli.command()
def migrate(
    to: Annotated[str | None, typer.Option(help="a revision, older ones too; default: the newest")] = None,
) -> None:
    """Bring the database's schema up to date, or back: what only later versions keep is lost then."""
    from migrations import NewerSchemaError, UnknownRevisionError, move, upgrade

    settings = settings_or_exit()
    try:
        upgrade(settings) if to is None else move(settings, to)
    except (NewerSchemaError, UnknownRevisionError) as error:
        _fail(str(error))
    console.print("the schema is up to date" if to is None else f"the schema is at {to}")


@cli.command()
def settings() -> None:
    """Print every setting with its value, default and meaning."""
    table = Table(box=None, pad_edge=False)
    table.add_column("variable", no_wrap=True)
    for heading in ("value", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    rows = settings_or_exit().described()
    table.columns[0].min_width = max(len(name) for name, *_ in rows)
    for row in rows:
        table.add_row(*map(escape, row))
    wide = console if console.is_terminal else Console(width=WHOLE_LINES)
    wide.print(table)


@cli.command()
def classify(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="image files")],
    model: Annotated[str | None, typer.Option(help="name, name@version or name@alias; default: in production")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="labels of each image, the most probable first")] = 1,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Classify image files with a registered model."""
    with Client(url, token=token) as client:
        answer = _call(lambda: client.classify([(p.name, p.read_bytes()) for p in images], model=model, top_k=top_k))
    table = Table("image", "label", "probability", box=None, pad_edge=False)
    for prediction in answer["predictions"]:
        name = escape(str(prediction["filename"]))
        if prediction.get("error"):
            table.add_row(name, f"[red]{escape(prediction['error']['detail'])}[/red]", "")
        for score in prediction["top_k"]:
            table.add_row(name, escape(score["label"]), f"{score['probability']:.3f}")
    console.print(table)


@cli.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="name, name@version or name@alias")],
    dataset: Annotated[str, typer.Option(help="data set whose test split is attacked")],
    attack: Annotated[list[str] | None, typer.Option(help="attack by name, repeatable")] = None,
    eps: Annotated[str | None, typer.Option(help='radius, such as "8/255"; default: each attack\'s')] = None,
    subset: Annotated[int | None, typer.Option(help="test images, stratified; default: all")] = None,
    require: Annotated[list[str] | None, typer.Option(help='such as "pgd>=0.40", repeatable')] = None,
    seed: int = 0,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Attack a registered classifier; exit status 3 if a requirement is not met."""
    ball = {} if eps is None else {"eps": eps}
    body: dict[str, Any] = {
        "model": model,
        "dataset": {"name": dataset, "subset": subset},
        "attacks": [{"name": name} | ball for name in attack or ["fgsm", "pgd", "cw-linf"]],
        "require": dict(_requirement(text) for text in require or []),
        "seed": seed,
    }
    with Client(url, token=token) as client:
        job = _call(lambda: _evaluated(client, body))
    if job["status"] != "succeeded":
        _fail(f"{job['status']}: {(job['error'] or {}).get('detail', 'no detail')}")
    _print_evaluation(job["result"])
    if not all(requirement["met"] for requirement in job["result"]["requirements"]):
        raise typer.Exit(REQUIREMENT_NOT_MET)


@cli.command()
def demo(
    home: Annotated[Path, typer.Option(help="folder of the demo's own service")] = Path(".clead/demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fresh: Annotated[bool, typer.Option(help="train again, although this demo has been run before")] = False,
) -> None:
    """Train, attack, compare and serve on real images: the whole service in a few minutes."""
    from app.demo.run import DemoError
    from app.demo.run import run as run_demo

    try:
        run_demo(home, seed=seed, fresh=fresh, console=console)
    except DemoError as error:
        _fail(str(error))


def main() -> None:
    cli()


def _requirement(text: str) -> tuple[str, str]:
    name, operator, threshold = text.partition(">")
    if not operator:
        _fail(f'{text!r} is not a requirement; write it like "pgd>=0.40"')
    return name.strip(), ">" + threshold.strip()


def _evaluated(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """The evaluation's job when it has ended."""
    job: dict[str, Any] = client.post("/evaluate", body)
    with console.status("queued") as status:
        for state in client.follow(job["id"]):
            job = state
            progress = job["progress"] or {}
            status.update(f"{job['status']} {progress.get('stage') or ''} {progress.get('done', 0)}")
    return job


def _print_evaluation(result: dict[str, Any]) -> None:
    console.print(f"{escape(result['model'])}: clean accuracy {result['clean_accuracy']:.3f}")
    table = Table("attack", "robust accuracy", "95 % interval", "success", "seconds", box=None, pad_edge=False)
    for row in result["attacks"]:
        low, high = row["ci95"]
        table.add_row(
            escape(row["name"]),
            f"{row['robust_accuracy']:.3f}",
            f"{low:.3f} – {high:.3f}",
            "–" if row["success_rate"] is None else f"{row['success_rate']:.3f}",
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    for warning in result["warnings"]:
        console.print(f"[yellow]{warning['code']}[/yellow]: {escape(warning['detail'])}")
        console.print(f"  → {escape(warning['advice'])}")
    for requirement in result["requirements"]:
        verdict = "[green]met[/green]" if requirement["met"] else "[red]not met[/red]"
        console.print(f"{escape(requirement['attack'])} {requirement['need']}: got {requirement['got']:.3f}, {verdict}")


def _call(request: Any) -> Any:
    import httpx

    try:
        return request()
    except ApiError as error:
        _fail(str(error))
    except httpx.TransportError as error:
        asked = error.request.url
        _fail(f"no answer from {asked}: {error}; start the service with `clead serve`, or give --url or CLEAD_URL")


def _fail(message: str) -> Any:
    Console(stderr=True).print(f"[red]error:[/red] {escape(message)}", highlight=False)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
