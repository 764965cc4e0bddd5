"""Whether what a served network sees and says is still what it was made for: checks with value, bound and n.

Two-sample tests per statistic with Bonferroni's correction, one of the ways that Rabanser, Günnemann and Lipton compare
("Failing Loudly", NeurIPS 2019). Significance alone would cry at nothing, given enough samples: a distance has to be
over its bound, too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from flows.checks import BREACH, OK, UNKNOWN, Check
from tasks.interval import wilson
from tasks.params import PARAMS, block, checked, read

CHANCE = 0.001  # that an unchanged input is called changed, of all tests of a check together
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=10, le=1_000_000)]


class Knobs(BaseModel):
    """The monitor section of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    hours: Annotated[float, Field(gt=0, le=8760)]
    min_samples: Count
    min_labels: Count
    max_input_drift: Share
    max_answer_drift: Share
    max_accuracy_drop: Share
    max_p99_ms: Annotated[float, Field(gt=0, le=1e6)]
    cooldown_h: Annotated[float, Field(ge=0, le=8760)]


def knobs(pipeline: str, params: dict[str, Any] | None = None) -> Knobs:
    """Return the monitor section of a pipeline, by default of params.yaml; `ValueError` names a knob that is wrong."""
    given = block(pipeline, params or read()).get("monitor", {})
    found: Knobs = checked(Knobs, given, f"{PARAMS}: pipelines.{pipeline}.monitor")
    return found


def inputs(reference: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], bounds: Knobs) -> Check:
    """Compare mean and deviation of each channel of sampled inputs with the reference's: the largest KS distance."""
    import numpy as np

    name = "input drift"
    kept = [row["input"] for row in rows if "input" in row]
    if len(kept) < bounds.min_samples:
        more = "serving.observe.keep is not statistics" if rows and not kept else few(len(kept), bounds.min_samples)
        return Check(name, UNKNOWN, more, n=len(kept))
    found = []
    for statistic, channels in reference["input"].items():
        for i, before in enumerate(channels):
            now = [each[statistic][i] for each in kept]
            found.append((*distance(before, now), f"{statistic} of channel {i}", np.median(before), np.median(now)))
    value, chance, what, was, is_now = max(found)
    drifts = value > bounds.max_input_drift and chance < CHANCE / len(found)
    why = f"{what}: median {is_now:.3g}, {was:.3g} when it was made (KS distance {value:.3f})"
    return Check(name, BREACH if drifts else OK, why, value, bounds.max_input_drift, len(kept))


def answers(reference: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], bounds: Knobs) -> list[Check]:
    """Compare the classes' shares (total variation distance) and the confidences (KS distance) with the reference's."""
    import numpy as np

    names = ("class drift", "confidence drift")
    if len(rows) < bounds.min_samples:
        return [Check(name, UNKNOWN, few(len(rows), bounds.min_samples), n=len(rows)) for name in names]
    value, chance, what = classes(reference["labels"], Counter(row["label"] for row in rows))
    before, now = reference["confidence"], [row["confidence"] for row in rows]
    apart, luck = distance(before, now)
    bound, n = bounds.max_answer_drift, len(rows)
    said = f"median {np.median(now):.3f}, {np.median(before):.3f} when it was made (KS distance {apart:.3f})"
    return [
        Check(names[0], BREACH if value > bound and chance < CHANCE else OK, what, value, bound, n),
        Check(names[1], BREACH if apart > bound and luck < CHANCE else OK, said, apart, bound, n),
    ]


def accuracy(served: float, right: int, n: int, bounds: Knobs) -> Check:
    """Compare labels that came later with the answers: breached where even the interval's upper end is too low."""
    name = "accuracy"
    if n < bounds.min_labels:
        return Check(name, UNKNOWN, f"{n} of min_labels {bounds.min_labels}: give more with engineworks feedback", n=n)
    low, high = wilson(right, n)
    least = served - bounds.max_accuracy_drop
    why = f"{right:,} of {n:,} answers were right ({low:.3f} to {high:.3f}); {served:.3f} when it was deployed"
    return Check(name, BREACH if high < least else OK, why, right / n, round(least, 6), n)


def few(n: int, least: int) -> str:
    """Say that there is too little to judge."""
    return f"{n} sampled answers of min_samples {least}: wait, or raise serving.observe.sample"


def distance(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov distance of two samples and how likely one as large is by chance."""
    from scipy.stats import ks_2samp

    found = ks_2samp(before, now, method="asymp")
    return float(found.statistic), float(found.pvalue)


def classes(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[float, float, str]:
    """Return the total variation distance of the classes' shares, its likelihood by chance, and the largest change."""
    import numpy as np
    from scipy.stats import chi2_contingency

    names = [name for name in {**before, **now} if before.get(name, 0) + now.get(name, 0)]
    table = np.array([[counts.get(name, 0) for name in names] for counts in (before, now)])
    was, is_now = table / table.sum(1, keepdims=True)
    most = int(np.abs(was - is_now).argmax())
    chance = float(chi2_contingency(table).pvalue) if len(names) > 1 else 1.0
    said = f"{names[most]}: {is_now[most]:.1%} of the answers, {was[most]:.1%} when it was made"
    return float(np.abs(was - is_now).sum() / 2), chance, said
