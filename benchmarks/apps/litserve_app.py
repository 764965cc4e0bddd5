"""The engine behind LitServe, in batches: python litserve_app.py ENGINE_FOLDER PORT BATCH_TIMEOUT_S."""

import base64
import json
import sys
from pathlib import Path

import litserve
import numpy as np

FOLDER = Path(sys.argv[1])
sys.path.insert(0, str(FOLDER))


class Classifier(litserve.LitAPI):
    """Prepared tensors as base64 in, class and scores out."""

    def setup(self, device):
        """Load the engine on one thread."""
        import backend

        facts = json.loads((FOLDER / "spec.json").read_text())
        self.classes, self.shape = facts["classes"], facts["shape"]
        self.engine = backend.load(FOLDER / f"engine{backend.SUFFIX}", 1)

    def decode_request(self, request):
        """One tensor."""
        return np.frombuffer(base64.b64decode(request["input"]), np.float32).reshape(self.shape)

    def batch(self, inputs):
        """Join what came in together."""
        return np.stack(inputs)

    def predict(self, x):
        """Run the engine; softmax."""
        logits = self.engine(x)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def unbatch(self, output):
        """Take it apart again."""
        return list(output)

    def encode_response(self, output):
        """Name the class."""
        return {"label": self.classes[int(output.argmax())], "scores": output.tolist()}


if __name__ == "__main__":
    api = Classifier(max_batch_size=64, batch_timeout=float(sys.argv[3]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, track_requests=False)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
