"""The knobs behind training, for a folder of pictures: small test sets get bounds that one picture may cross."""

from flows.survey import Survey

BATCHES = {128: [1, 8, 32, 128], 32: [1, 8, 32]}  # that throughput is measured at, by the largest that fits
CALIBRATION = 512  # samples from which on INT8's ranges are no chance


def downstream(found: Survey) -> str:
    """Return the sections from export to monitor."""
    return engines(found) + "\n" + gates(found)


def engines(found: Survey) -> str:
    """Return the sections that make engines and try them."""
    calibration = found.deal.total("calibration")
    enough = "samples, of every class its share"
    if calibration < CALIBRATION:
        enough = f"{CALIBRATION} would be better; {calibration} are what prepare.calibration sets aside"
    loss = 0.0001 if found.tiny else 0.001
    return f"""  export: {{max_difference: {loss}}}\tlargest |ONNX - torch| on the golden batch's logits

  quantize:
    precisions: [fp32, fp16, int8]
    min_calibration: {min(CALIBRATION, calibration)}\t{enough}

  build:
    max_batch: {largest(found)}\tof {found.size} x {found.size} pixels
    options:
      tensorrt_rtx: {{compute_capabilities: []}}\tof GPUs, as in [86, 89, 120]; none: 8.0 and later
      tensorrt: {{hardware_compatibility: none, version_compatible: false, workspace_mb: 1024}}

  evaluate: {{batch_size: {500 if found.tiny else 64}}}

  measure: {{threads: 1, rounds: {15 if found.tiny else 5}, batches: {BATCHES[largest(found)]}}}
"""


def gates(found: Survey) -> str:
    """Return the sections that choose an engine, let it go live and watch it."""
    tests, least = found.deal.total("test"), min(found.deal.counts["test"])
    drop = upward(1 / tests, 0.005)
    lone = f"one of {tests:,} test pictures" if drop > 0.005 else "against FP32, on the test set"
    few = "one" if 1 / least > 0.03 else "3 in 100"
    pair = "two" if 2 / tests > 0.03 else "3 in 100"
    return f"""  select:
    objective: latency\tor throughput
    max_accuracy_drop: {drop}\t{lone}
    max_class_drop: {upward(1 / least, 0.03)}\t{few} of {least:,}, the fewest test pictures of a class
    min_agreement: {round(1 - upward(2 / tests, 0.03), 4)}\twith FP32: {pair} may differ
    max_p99_ms: {50 if found.tiny else 200}
    max_size_mb: 100

  package: {{max_batch_size: {min(64, largest(found))}, max_queue_delay_us: 0, instances: 1, threads: 1}}

  deploy:
    max_score_difference: 0.001\tserved scores against the golden batch's
    max_champion_drop: {drop}\tof accuracy, against the live version
    max_p99_ms: {200 if found.tiny else 500}\tof a single picture through the server
    grace_s: 600\tthat the version before stays loaded

  monitor:
    hours: 24\tof sampled answers (serving.observe) that are judged
    min_samples: 200\tof them, else nothing is said of drift
    min_labels: 50\tthat came later, by: engineworks feedback
    max_input_drift: 0.15\tKS distance from held-out training pictures
    max_answer_drift: 0.15\tof classes' shares and confidences
    max_accuracy_drop: {max(0.05, drop)}\tof labelled answers, interval's upper end
    max_p99_ms: {200 if found.tiny else 500}\tof a single picture through the door
    cooldown_h: 24\tbetween two retrainings for drift"""


def largest(found: Survey) -> int:
    """Return the largest batch."""
    return 128 if found.tiny else 32


def upward(share: float, least: float) -> float:
    """Return a share, rounded up to four digits, or the least where that is more; 1 at most."""
    return min(1.0, max(least, -(-share * 10_000 // 1) / 10_000))
