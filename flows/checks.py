"""Questions to what is live, and what came of each: a verdict with value, bound and n, in a table on the run."""

from dataclasses import dataclass
from typing import Any

OK, BREACH, UNKNOWN = "ok", "breach", "not judged"


@dataclass(frozen=True)
class Check:
    """One question, and what came of it; `why` is a sentence for people."""

    name: str
    verdict: str
    why: str
    value: float | None = None
    bound: float | None = None
    n: int = 0

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        value = "-" if self.value is None else f"{self.value:.4g}"
        bound = "-" if self.bound is None else f"{self.bound:g}"
        row = {"check": self.name, "verdict": self.verdict, "value": value, "bound": bound}
        return row | {"n": self.n, "why": self.why}


def table(flow: str, pipeline: str, left: dict[str, Any], checks: list[Check]) -> None:
    """Leave the checks of a live version, known by its receipt, on the Prefect run."""
    from prefect.artifacts import create_table_artifact

    verdicts = [each.verdict for each in checks]
    came = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in (OK, BREACH, UNKNOWN) if kind in verdicts)
    title = f"{pipeline}, version {left['version']}, {left['engine']}: {came}"
    key = f"{flow}-{pipeline.replace('_', '-')}"
    create_table_artifact([each.row() for each in checks], key=key, description=title)


def reasons(pipeline: str, checks: list[Check]) -> list[str]:
    """Say of each broken bound: rule, value, bound, n."""
    return [
        f"{pipeline}: {each.name}: {each.why}"
        + (f"; bound {each.bound:g}" if each.bound is not None else "")
        + (f" (n={each.n:,})" if each.n else "")
        for each in checks
        if each.verdict == BREACH
    ]
