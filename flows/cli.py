"""The command line: `engineworks run|up|down`. Exit codes: 0 deployed or unchanged, 3 refused by a gate, 1 error."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from flows import addresses, graph, services, serving, terminal

REFUSED = 3
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command in the checkout."""
    parser = argparse.ArgumentParser(prog="engineworks", description="Labelled images to a served, optimised network.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="bring a pipeline up to date and deploy it; starts what is not up")
    run.add_argument("pipeline", nargs="?", default="fashion")
    commands.add_parser("up", help="start Prefect, MLflow's UI, Triton and the schedule")
    commands.add_parser("down", help="stop what `up` started")
    commands.add_parser("setup", help="make the server's own environment")
    arguments = parser.parse_args(argv)
    if not Path("params.yaml").exists():
        terminal.say("error: no params.yaml here; run this in the checkout's root")
        return 1
    try:
        addresses.adopt()
        if arguments.command == "run":
            return run_pipeline(arguments.pipeline)
        {"up": up, "down": down, "setup": serving.install}[arguments.command]()
    except ValueError as error:
        terminal.say(f"error: {error}")
        return 1
    return 0


def run_pipeline(pipeline: str) -> int:
    """Start what is not up, bring the pipeline up to date, deploy it, and print the table."""
    begun = time.monotonic()
    for name, value in addresses.inherited().items():
        terminal.say(f"using {name}={value}")
    stages = graph.preview(pipeline)
    terminal.say(f"{pipeline}: {stages} stages, then the deploy; what is fresh is not run again")
    serving.install()
    every = services.known()
    started = services.start(every)
    if started:
        terminal.say(f"starting {', '.join(started)} (logs: {services.LOGS})")
    graph.settle(Path.cwd())
    from flows.pipeline import run
    from flows.stage import StageFailed

    try:
        services.wait(service for service in every if service.name == "prefect")
        result = run(pipeline)
        services.wait(every)
    except KeyboardInterrupt:
        terminal.say("interrupted; finished stages are kept, this one starts again with the next run")
        return INTERRUPTED
    except (StageFailed, ValueError) as error:
        terminal.say(f"error: {error}")
        return 1
    terminal.say()
    terminal.say(terminal.table(result["selection"]["rows"]))
    terminal.say()
    return summarise(pipeline, result, time.monotonic() - begun)


def summarise(pipeline: str, result: dict[str, Any], seconds: float) -> int:
    """Print what is live, the addresses and a line to try, or why nothing went live; return the exit code."""
    receipt, rest = result["live"], seconds - result["computing"]
    stages = f"{len(result['executed'])} stages ran, {seconds:.0f} s in all, of which orchestration {rest:.0f} s"
    if "refused" in receipt:
        terminal.say("refused by a gate; what was live before serves on:")
        for reason in receipt["refused"]:
            terminal.say(f"  - {reason}")
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
    for name, link in services.links().items():
        terminal.say(f"{name:<8}{link}")
    sample, kind = example(pipeline)
    terminal.say(f"\nTry it ({kind} to class):")
    terminal.say(f"  sh infra/serving/request.sh {sample} {kind} |")
    terminal.say("    curl -s --data-binary @- -H Inference-Header-Content-Length:256 \\")
    terminal.say(f"    {receipt['url'].removeprefix('http://')}")
    return 0


def up() -> None:
    """Start every server and wait until it answers."""
    serving.install()
    every = services.known()
    started = services.start(every)
    services.wait(every)
    terminal.say(f"started {', '.join(started)}" if started else "all is up")
    for name, link in services.links().items():
        terminal.say(f"{name:<8}{link}")


def down() -> None:
    """Stop what we started."""
    stopped = services.stop()
    terminal.say(f"stopped {', '.join(stopped)}" if stopped else "nothing was up")


if __name__ == "__main__":
    sys.exit(main())
