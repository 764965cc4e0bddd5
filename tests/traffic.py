"""A client that asks the door without pause, and counts."""

import threading
import time
from typing import Any

import numpy as np

from tests.conftest import Miniature


class Traffic(threading.Thread):
    """Asks one tensor after the other over a connection that it keeps; `errors` holds what failed."""

    def __init__(self, system: Miniature, kind: str = "http") -> None:
        """Make a client of one `kind`: http or grpc."""
        super().__init__(daemon=True)
        self.kind, self.ending = kind, threading.Event()
        self.system, self.answered, self.errors = system, 0, list[str]()

    def run(self) -> None:
        client = self.connect()
        while not self.ending.is_set():
            try:
                self.ask(client)
                self.answered += 1
            except Exception as error:
                self.errors.append(repr(error) + str(error))

    def connect(self) -> Any:
        """Return a client of the door."""
        import tritonclient.grpc
        import tritonclient.http

        library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[self.kind]
        return library.InferenceServerClient(self.system.url(self.kind.upper()).removeprefix("http://"))

    def ask(self, client: Any = None) -> None:
        """Ask once."""
        import tritonclient.grpc
        import tritonclient.http

        library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[self.kind]
        x = np.zeros((1, 1, 28, 28), np.float32)
        asked = library.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)
        (client or self.connect()).infer("fashion_tensor", [asked], headers={"authorization": self.system.key()})

    def patient_ask(self, within_s: float) -> None:
        """Ask until there is an answer, and raise what is wrong where there is none."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return self.ask()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def end(self) -> None:
        """Stop asking."""
        self.ending.set()
        self.join(60)
