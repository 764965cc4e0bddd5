"""Types of knobs for what is done at random: how often, and how strongly."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=-1024, le=1024)]  # degrees or pixels
Size = Annotated[float, Field(ge=0, le=255)]
Share = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=100)]


class Chance(BaseModel):
    """How large a share of the images a change touches."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    probability: Probability


class Ranged(Chance):
    """A change of random strength, uniform in `range`."""

    range: tuple[Amount, Amount]

    @model_validator(mode="after")
    def ordered(self) -> "Ranged":
        """Refuse a range that runs backwards."""
        if self.range[0] > self.range[1]:
            raise ValueError(f"range {list(self.range)} runs backwards; write the lower end first")
        return self


class Scaled(Ranged):
    """A change by a factor."""

    range: tuple[Factor, Factor]


class Sized(Ranged):
    """A change that has no direction."""

    range: tuple[Size, Size]


class Part(Ranged):
    """A change to a part of the image, as a share of its side."""

    range: tuple[Share, Share]


class Crop(BaseModel):
    """A part of every image, stretched to the whole: its share of the area, and of the sides' ratio, width / height."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    area: tuple[Share, Share]
    ratio: tuple[Factor, Factor]

    @model_validator(mode="after")
    def ordered(self) -> "Crop":
        """Refuse a range that runs backwards."""
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} {[low, high]} runs backwards; write the lower end first")
        return self
