"""Augmentation of sounds: louder and softer."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from tasks.modalities.sound import preprocess


class Augmentation(BaseModel):
    """How far loudness varies, as a share; 0 leaves it alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    loudness: Annotated[float, Field(ge=0, lt=1)]

    def active(self) -> list[str]:
        """Name the changes that touch any sound."""
        return ["loudness"] if self.loudness else []

    def alone(self, name: str) -> "Augmentation":
        """Return one change without the others: there is just one."""
        return self


def augmented(encoded: Any, knobs: Augmentation, spec: dict[str, Any], device: str = "cpu") -> Any:
    """(bytes,) -> float32 [1, mels, frames], changed at random."""
    from nvidia.dali import fn

    factor = fn.random.uniform(range=[1 - knobs.loudness, 1 + knobs.loudness])
    return preprocess.preprocess(encoded, spec, device) * factor


def variants(sounds: list[bytes], knobs: Augmentation, spec: dict[str, Any], copies: int) -> list[list[Any]]:
    """Return for each sound its spectrogram as a picture; loudness does not show."""
    import numpy as np

    tensors = preprocess.run(preprocess.serving_pipeline(spec, len(sounds)), sounds)
    return [[(255 * tensor[0]).clip(0, 255).astype(np.uint8)] for tensor in tensors]
