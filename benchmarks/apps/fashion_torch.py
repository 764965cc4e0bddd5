"""Fashion-MNIST as PyTorch's own MNIST example trains: its network, Adadelta, a DataLoader; until a target.

    python fashion_torch.py FOLDER SEED TARGET

FOLDER has the idx files. Prints the seconds from the first step to the validation that reached the target.
"""

import sys
import time

import torch
from fashion_data import images, network
from torch.nn import functional
from torch.utils.data import DataLoader, random_split

BATCH, TEST_BATCH, EPOCHS = 64, 1000, 14


def main(folder: str, seed: int, target: float) -> None:
    """Train, validate after each epoch, stop at the target."""
    torch.manual_seed(seed)
    training, validation = random_split(images(folder), [54_000, 6_000])
    train_loader = DataLoader(training, batch_size=BATCH, shuffle=True, num_workers=1)
    test_loader = DataLoader(validation, batch_size=TEST_BATCH, num_workers=1)
    model = network()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    begun = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for data, label in train_loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(data), label)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(data).argmax(1) == label).sum()) for data, label in test_loader)
        scheduler.step()
        print(f"epoch {epoch} {right / len(validation):.4f} {time.perf_counter() - begun:.1f} s", flush=True)
        if right / len(validation) >= target:
            break
    print(f"seconds {time.perf_counter() - begun:.2f} reached {right / len(validation) >= target}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
