"""Fashion-MNIST as torchvision gives it, picture by picture, and the network of PyTorch's MNIST example."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn


class images(torch.utils.data.Dataset):
    """The training images: a Pillow picture a time, made a tensor of 0 to 1 and normalised, as the example does."""

    def __init__(self, folder: str) -> None:
        self.pixels = np.frombuffer(Path(folder, "train-images-idx3-ubyte").read_bytes(), np.uint8)[16:]
        self.pixels = self.pixels.reshape(-1, 28, 28)
        self.labels = np.frombuffer(Path(folder, "train-labels-idx1-ubyte").read_bytes(), np.uint8)[8:]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        picture = Image.fromarray(self.pixels[index])
        x = torch.from_numpy(np.array(picture)).unsqueeze(0).float().div(255)
        return x.sub(0.2860).div(0.3530), int(self.labels[index])


def network() -> nn.Sequential:
    """Return the network of the MNIST example in pytorch/examples."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
