"""What the command line takes."""

import argparse
from pathlib import Path
from typing import Any

from flows import tokens


def parser() -> argparse.ArgumentParser:
    """Return the commands and what they take."""
    root = argparse.ArgumentParser(prog="engineworks", description="Labelled images to a served, optimised network.")
    commands = root.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="bring a pipeline up to date and deploy it; starts what is not up")
    run.add_argument("pipeline", nargs="?", default="fashion")
    made = commands.add_parser("new", help="make a pipeline of a folder of pictures: a block in params.yaml")
    made.add_argument("name", help="of the pipeline, as in flowers")
    made.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="with a folder per class")
    added = commands.add_parser("add", help="add an example that ships with the project to params.yaml, or list them")
    added.add_argument("example", nargs="?", help="as in examples/; without one: what there is")
    status = commands.add_parser("status", help="what the next run will do, and why")
    status.add_argument("pipeline", nargs="?", default="fashion")
    doctor = commands.add_parser("doctor", help="what this machine and this checkout are fit for")
    explain = commands.add_parser("explain", help="where a version comes from: data, knobs, engine, verdicts, deploy")
    explain.add_argument("model", help="as in fashion@champion or fashion/3")
    for each in (status, doctor, explain, engines(commands)):
        each.add_argument("--json", action="store_true", help="for programs")
    back = commands.add_parser("rollback", help="the version before answers again; a second one takes that back")
    back.add_argument("pipeline", nargs="?", default="fashion")
    scored = commands.add_parser("score", help="answers for a folder of files, as one Parquet file; goes on if killed")
    scored.add_argument("pipeline")
    scored.add_argument("folder", type=Path)
    scored.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    scored.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help="engines on a Ray cluster instead")
    tune = commands.add_parser("tune", help="the knobs that serve the most requests within a p99; servers for a load")
    tune.add_argument("pipeline", nargs="?", default="fashion")
    tune.add_argument("--p99-ms", type=float, required=True, help="the bound, from when a request was due")
    tune.add_argument("--requests-per-s", type=float, nargs="+", default=[100, 1000, 10_000], help="loads to plan for")
    tune.add_argument("--seconds", type=float, default=2, help="that each rate is watched (default: 2)")
    tune.add_argument("--minutes", type=float, default=5, help="that all of it may take, about (default: 5)")
    tune.add_argument("--headroom", type=float, default=0.3, help="share of a server kept free (default: 0.3)")
    admitted = commands.add_parser("key", help="make a client's key to the door, or drop those whose files are gone")
    admitted.add_argument("name", help="of the client, as in app-1")
    classes = (tokens.REALTIME, tokens.THROUGHPUT)
    admitted.add_argument("--class", dest="kind", choices=classes, default=classes[0], help="of its requests")
    commands.add_parser("up", help="start Prefect, its worker with the schedules, MLflow's UI and Triton")
    fed = commands.add_parser(
        "feedback", help="labels that came late: how right the live version was, and new training data"
    )
    fed.add_argument("pipeline")
    fed.add_argument("folder", type=Path, help="with a folder per class, of files that were labelled")
    commands.add_parser("down", help="stop what `run` and `up` started, and a run that is under way")
    commands.add_parser("setup", help="make the server's own environment")
    return root


def engines(commands: Any) -> argparse.ArgumentParser:
    """Add the commands on engines and packages, which ask no server; return `check`."""
    check = commands.add_parser("check", help="whether this machine, or another, can load an engine")
    check.add_argument("engine", type=Path, help="a file of the build stage, or a folder of them")
    check.add_argument("--on", type=Path, metavar="TARGET.json", help="the other machine: its `engineworks target`")
    check.add_argument("--runtimes", type=Path, metavar="FILE.json", help="versions of what loads it, as in infra/k8s")
    commands.add_parser("target", help="this machine's facts as JSON, for `check --on` elsewhere")
    linted = commands.add_parser("lint", help="what is wrong with a Triton model repository, offline")
    linted.add_argument("repositories", nargs="+", type=Path, help="as in models/package/fashion/repository")
    shipped = commands.add_parser("ship", help="a package as the model store of a cluster has it (infra/k8s)")
    shipped.add_argument("pipeline")
    shipped.add_argument("into", type=Path, metavar="FOLDER", help="the store, or what is copied there")
    return check
