"""One way of feeding a network, in a process of its own: for each line on standard input it walks over all images."""

import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE, BATCH, CORES, PASSES = 224, 64, 2, 2
AREA, RATIO = (0.35, 1.0), (0.75, 1.33)
MEAN = STD = 127.5


def main(way: str, folder: Path) -> None:
    """Walk over the images whenever asked to, and say how many there were."""
    walk = WAYS[way](folder, way)
    torch.set_num_threads(1)
    for _ in sys.stdin:
        print(f"done {sum(walk() for _ in range(PASSES))}", flush=True)


def counted(loader: Iterable[Any]) -> Callable[[], int]:
    """Return what walks over a loader's batches and counts the images."""

    def walk() -> int:
        count = 0
        for x in loader:
            assert x.shape[1:] == (3, SIDE, SIDE) and x.dtype == torch.float32
            count += len(x)
        return count

    return walk


def ours(folder: Path, way: str) -> Callable[[], int]:
    """The project's own loader, as `train` uses it."""
    from tasks import allocator
    from tasks.problems.classification import data

    allocator.keep_memory()
    spec = {"workload": "image/classification", "image_size": SIDE, "channels": 3, "mean": [MEAN] * 3, "std": [STD] * 3}
    changes = {"crop": {"area": AREA, "ratio": RATIO}, "flip": {"probability": 0.5}}
    batches = data.loader(folder / way, "train", spec, BATCH, changes, threads=CORES)

    class Images:
        def __iter__(self) -> Any:
            return (x for x, _ in batches)

    return counted(Images())


class Files(torch.utils.data.Dataset):
    """The photographs as files."""

    def __init__(self, folder: Path, change: Callable[[bytes], Any]) -> None:
        self.paths, self.change = sorted((folder / "files").iterdir()), change

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.change(self.paths[index].read_bytes())


def torch_loader(change: Callable[[bytes], Any]) -> Callable[[Path, str], Callable[[], int]]:
    """Return a way with torch's DataLoader, a worker a core."""

    def build(folder: Path, way: str) -> Callable[[], int]:
        options: dict[str, Any] = {"num_workers": CORES, "persistent_workers": True, "shuffle": True}
        loader = torch.utils.data.DataLoader(Files(folder, change), BATCH, **options)
        return decoding(loader) if change is alone else counted(loader)

    return build


def decoding(loader: Iterable[Any]) -> Callable[[], int]:
    """Return what counts images that were decoded and dropped."""
    return lambda: sum(len(batch) for batch in loader)


def box(width: int, height: int) -> tuple[int, int, int, int]:
    """Draw a part of an image as torchvision's RandomResizedCrop does: left, top, width, height."""
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        ratio = np.exp(random.uniform(*np.log(RATIO)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def pillow(data: bytes) -> Any:
    """Decode, crop and resize with Pillow; flip and normalise with torch."""
    import io

    from PIL import Image

    return with_pillow(Image.open(io.BytesIO(data)).convert("RGB"))


def with_pillow(image: Any) -> Any:
    """Crop, resize, flip and normalise a Pillow image."""
    from PIL import Image

    left, top, width, height = box(*image.size)
    image = image.crop((left, top, left + width, top + height)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    if random.random() < 0.5:
        x = x.flip(2)
    return (x - MEAN) / STD


def opencv(data: bytes) -> Any:
    """Decode with simplejpeg, crop, resize, flip with OpenCV and normalise with NumPy."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)
    image = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    left, top, width, height = box(image.shape[1], image.shape[0])
    image = cv2.resize(image[top : top + height, left : left + width], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        image = cv2.flip(image, 1)
    x = (image.astype(np.float32) - MEAN) * (1 / STD)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))


def webdataset(folder: Path, way: str) -> Callable[[], int]:
    """WebDataset from a tar per worker, decoded by Pillow."""
    import webdataset as wds

    paths = [str(path) for path in sorted(folder.glob("webdataset-*.tar"))]
    dataset = wds.WebDataset(paths, shardshuffle=len(paths)).shuffle(1000).decode("pil").to_tuple("jpg")
    dataset = dataset.map(lambda sample: with_pillow(sample[0].convert("RGB"))).batched(BATCH, collation_fn=torch.stack)
    return counted(wds.WebLoader(dataset, batch_size=None, num_workers=CORES, persistent_workers=True))


def alone(data: bytes) -> Any:
    """Decode and drop."""
    import simplejpeg

    return simplejpeg.decode_jpeg(data).shape[0]


WAYS: dict[str, Callable[[Path, str], Callable[[], int]]] = {
    "ours, stored as pixels": ours,
    "ours, stored as JPEG": ours,
    "ours, files as they came": ours,
    "DataLoader + Pillow": torch_loader(pillow),
    "DataLoader + simplejpeg + OpenCV": torch_loader(opencv),
    "WebDataset + Pillow": webdataset,
    "decoding alone": torch_loader(alone),
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
