"""The command line, `engineworks COMMAND`. Exit codes: 0 deployed, unchanged or fit, 3 refused, 1 error."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

from flows import addresses, consoles, door, graph, ownership, services, terminal, tokens, turn
from flows.arguments import parser
from tasks import budget, guard
from tasks.mirror import without_credentials

REFUSED = 3
INTERRUPTED = 130
ANYWHERE = ("check", "target", "lint")  # commands that need no checkout
FILES_ALONE = (*ANYWHERE, "doctor", "new", "add", "ship")  # which ask no server; doctor says what is wrong with one


def main(argv: list[str] | None = None) -> int:
    """Run one command in the checkout."""
    arguments = parser().parse_args(argv)
    if arguments.command not in ANYWHERE and not Path("params.yaml").exists():
        terminal.say("error: no params.yaml here; run this in the checkout's root")
        return 1
    try:
        return dispatch(arguments)
    except (ValueError, OSError) as error:
        terminal.say(f"error: {guard.sentence(error)}")
        return 1


def dispatch(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for."""
    if arguments.command in FILES_ALONE:
        return on_files(arguments)
    addresses.adopt()
    if arguments.command == "run":
        return run_pipeline(arguments.pipeline)
    if arguments.command == "explain":
        from flows.explain import explain

        return explain(arguments.model, arguments.json)
    if arguments.command == "status":
        from flows.status import status

        return status(arguments.pipeline, arguments.json)
    if arguments.command == "tune":
        from flows.tune import tune_pipeline

        names = ("p99_ms", "requests_per_s", "seconds", "minutes", "headroom")
        return tune_pipeline(arguments.pipeline, {name: getattr(arguments, name) for name in names})
    if arguments.command == "score":
        from flows.score import score_folder

        return score_folder(arguments.pipeline, arguments.folder, arguments.out, arguments.ray)
    if arguments.command == "feedback":
        from flows.feedback import feed

        return feed(arguments.pipeline, arguments.folder)
    if arguments.command == "rollback":
        from flows.rollback import roll_back

        return roll_back(arguments.pipeline)
    if arguments.command == "key":
        terminal.say(f"curl -H @{door.admit(arguments.name, arguments.kind)} ...")
        return 0
    {"up": up, "down": down, "setup": services.install}[arguments.command]()
    return 0


def on_files(arguments: argparse.Namespace) -> int:
    """Run a command that asks no server."""
    if arguments.command == "doctor":
        from flows.doctor import doctor

        return doctor(arguments.json)
    if arguments.command == "lint":
        from flows.lint import lint

        return lint(arguments.repositories)
    if arguments.command == "new":
        from flows.new import new

        return new(arguments.name, arguments.images)
    if arguments.command == "add":
        from flows.add import add

        return add(arguments.example)
    if arguments.command == "ship":
        from flows.ship import ship

        return ship(arguments.pipeline, arguments.into)
    from flows.check import check, show_target

    if arguments.command == "target":
        return show_target()
    return check(arguments.engine, arguments.on, arguments.json, arguments.runtimes)


def run_pipeline(pipeline: str) -> int:
    """Start what is not up, bring the pipeline up to date, deploy it, and print the table."""
    begun = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores Ctrl-C for what it starts in the background
        signal.signal(number, signal.default_int_handler)
    for name, value in addresses.inherited().items():
        terminal.say(f"using {name}={without_credentials(value)}")
    stages = graph.preview(pipeline)
    try:
        with turn.taken(pipeline):
            terminal.paragraph(f"{pipeline}: {stages} stages, then the deploy; what is fresh is not run again")
            result = conduct(pipeline)
    except KeyboardInterrupt:
        terminal.paragraph("interrupted; finished stages are kept, training goes on at its last checkpoint")
        return INTERRUPTED
    terminal.say()
    terminal.say(terminal.table(result["selection"]["rows"]))
    terminal.say()
    return summarise(pipeline, result, time.monotonic() - begun)


def conduct(pipeline: str) -> dict[str, Any]:
    """Start what is not up and run the flow; return what happened, in numbers."""
    services.install()
    every = services.known()
    started = services.start(every)
    if started:
        terminal.paragraph(f"starting {', '.join(started)} (logs: {services.LOGS})")
    graph.settle(Path.cwd())
    from flows.pipeline import run
    from flows.stage import StageFailed

    services.wait(service for service in every if service.name == "prefect")
    try:
        result: dict[str, Any] = run(pipeline)
    except StageFailed as error:
        raise ValueError(str(error)) from error
    services.start(every)  # what was killed meanwhile
    services.wait(every)
    return result


def summarise(pipeline: str, result: dict[str, Any], seconds: float) -> int:
    """Print what is live, the addresses and a line to try, or why nothing went live; return the exit code."""
    receipt, rest = result["live"], seconds - result["computing"]
    stages = f"{len(result['executed'])} stages ran, {seconds:.0f} s in all, of which orchestration {rest:.0f} s"
    if "refused" in receipt:
        terminal.say("refused by a gate; what was live before serves on:")
        for reason in receipt["refused"]:
            terminal.paragraph(f"  - {reason}")
        terminal.say(stages)
        return REFUSED
    from flows.deploy import example

    low, high, n = receipt["low"], receipt["high"], receipt["n"]
    terminal.say(
        f"live: {receipt['engine']}, version {receipt['version']}, objective {result['selection']['objective']}"
    )
    terminal.say(f"served accuracy {receipt['served_accuracy']:.4f} ({low:.4f} to {high:.4f}, n={n:,})")
    terminal.say(stages)
    terminal.say()
    terminal.say("\n".join(budget.lines(receipt["budget"])))
    terminal.say()
    for name, link in consoles.links(pipeline).items():
        terminal.say(f"{name:<8}{link}")
    terminal.say(f"{'Report':<8}models/report/{pipeline}.html")
    sample, kind = example(pipeline)
    terminal.say(f"\nTry it ({kind} to class):")
    terminal.say(f"  sh infra/serving/request.sh {sample} {kind} |")
    terminal.say(f"    curl -s --data-binary @- -H @{tokens.own()} \\")
    terminal.say("    -H Inference-Header-Content-Length:256 \\")
    terminal.say(f"    {receipt['url'].removeprefix('http://')}")
    return 0


def up() -> None:
    """Start every server and wait until it answers."""
    services.install()
    every = services.known()
    started = services.start(every)
    services.wait(every)
    terminal.say(f"started {', '.join(started)}" if started else "all is up")
    for name, link in consoles.links().items():
        terminal.say(f"{name:<8}{link}")


def down() -> None:
    """Stop what we started; a run that is under way first."""
    interrupted = turn.interrupt()
    if interrupted:
        terminal.say(f"stopped the run of {interrupted}; finished stages are kept")
    for name in ownership.interrupt():
        terminal.say(f"stopped what else was under way: {name}")
    stopped = services.stop()
    terminal.say(f"stopped {', '.join(stopped)}" if stopped else "nothing was up")


if __name__ == "__main__":
    sys.exit(main())
