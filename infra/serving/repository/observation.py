"""What an engine's model notes of its answers: counts for the server's metrics, and a sampled, bounded log for drift.

`package` copies this file and observed.py beside model.py. Where to and how much is said by the server's environment,
not by the package: a knob of privacy must hold for every version, also for one that was packaged before it was turned.
Neither makes a request wait: a thread hands both on, twice a second.
"""

import json
import os
import threading
from collections import deque

import numpy as np
from observed import Log

PERIOD_S = 0.5
OURS = "canary"  # request id of what the supervisor and deploys ask, which is not counted
EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # of the confidence's buckets, edge included


class Observation:
    """Notes of one instance of a model."""

    def __init__(self, counts, log):
        """Start to hand on what is noted."""
        self.counts, self.log, self.scores, self.ending = counts, log, deque(), threading.Event()
        self.thread = threading.Thread(target=self.hand_on_until_the_end, daemon=True)
        self.thread.start()

    def note(self, request_id, inputs, scores):
        """Take in one request's prepared samples [n, ...] and probabilities [n, classes]; cheap, and never waits."""
        if request_id != OURS:
            self.scores.append(scores)
            if self.log:
                self.log.note(inputs, scores)

    def hand_on_until_the_end(self):
        """Hand on every half second."""
        while not self.ending.wait(PERIOD_S):
            self.hand_on()

    def hand_on(self):
        """Add to the metrics and the log what was noted since the last time."""
        noted = [self.scores.popleft() for _ in range(len(self.scores))]
        if noted:
            self.counts.add(np.concatenate(noted))
        if self.log and (dropped := self.log.write()):
            self.counts.dropped.increment(dropped)

    def end(self):
        """Hand on the rest."""
        self.ending.set()
        self.thread.join()
        self.hand_on()
        self.counts.forget()


class Counts:
    """Predictions per class and a histogram of the confidence, as metrics of the server that go with the model.

    The histogram is counters of the names that Prometheus gives to its parts: a histogram of this server takes one
    value at a time, each a message of 0.1 ms. `family(name, help)` makes a counter.
    """

    def __init__(self, family, classes, **labels):
        """Register all at zero."""
        words = "Samples answered, by the probability of the best class"
        self.families = {
            "predictions": family("engineworks_predictions_total", "Samples answered, by the best class"),
            **{part: family(f"engineworks_confidence_{part}", words) for part in ("bucket", "sum", "count")},
            "dropped": family("engineworks_observed_dropped_total", "Samples that could not be written to the log"),
        }
        made = {name: each.Metric for name, each in self.families.items()}
        self.classes = [made["predictions"](labels={**labels, "class": name}) for name in classes]
        edges = [*(str(edge) for edge in EDGES), "+Inf"]
        self.buckets = [made["bucket"](labels={**labels, "le": edge}) for edge in edges]
        self.sum, self.count, self.dropped = (made[name](labels=labels) for name in ("sum", "count", "dropped"))

    def add(self, scores):
        """Count the samples of probabilities [n, classes]."""
        best = scores.max(axis=1).astype(np.float64)
        within = np.searchsorted(EDGES, best.round(6))  # the first edge that is not below; a float32's 0.9 is 0.9
        buckets = np.bincount(within, minlength=len(self.buckets)).cumsum()
        classes = np.bincount(scores.argmax(axis=1), minlength=len(self.classes))
        for metrics, counts in ((self.classes, classes), (self.buckets, buckets)):
            for metric, count in zip(metrics, counts.tolist(), strict=True):
                if count:
                    metric.increment(count)
        self.sum.increment(float(best.sum()))
        self.count.increment(len(best))

    def forget(self):
        """Take them all off the server: each is there until nobody knows it any more."""
        self.classes = self.buckets = self.sum = self.count = self.dropped = None
        self.families = {}


def observation(model, classes, family):
    """Return the notes of a model named `<pipeline>_engine.<version>`, or None where this server keeps none.

    ENGINEWORKS_OBSERVED is a folder, relative to where the server runs: its Python knows ASCII paths only.
    ENGINEWORKS_OBSERVE is JSON: `sample`, a share; `max_mb` of a pipeline's log; `keep`: nothing, outputs, statistics.
    """
    if "ENGINEWORKS_OBSERVE" not in os.environ:
        return None
    knobs, (part, _, version) = json.loads(os.environ["ENGINEWORKS_OBSERVE"]), model.rpartition(".")
    pipeline, bound = part.removesuffix("_engine"), int(knobs["max_mb"] * 1e6)
    where = os.environ["ENGINEWORKS_OBSERVED"]
    log = None
    if knobs["keep"] != "nothing":
        log = Log(where, pipeline, int(version), classes, knobs["sample"], bound, knobs["keep"])
    return Observation(Counts(family, classes, pipeline=pipeline, version=version), log)
