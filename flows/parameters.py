"""What Prefect's form asks for: the parameters of the flows that people and schedules start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefect.runtime import flow_run
from pydantic import Field

from tasks.params import NAME


@dataclass(frozen=True)
class Said:
    """The line beside a field of the form; Prefect takes away the description of a plain `Field`."""

    text: str

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """Add the line to the field's schema."""
        return dict(handler(core)) | {"description": self.text}


Pipeline = Annotated[str, Field(pattern=f"^{NAME}$", examples=["fashion"]), Said("a block of params.yaml")]
OneOrAll = Annotated[Pipeline | None, Said("a block of params.yaml; nothing for all that is live")]
Reason = Annotated[str, Field(max_length=1000), Said("why, for those who look at the run later")]
Folder = Annotated[Path, Said("the folder whose files are scored; relative to the checkout, or absolute")]
Answers = Annotated[Path, Said("the file to write, as in answers.parquet")]
Ray = Annotated[str | None, Said("a Ray cluster's address, or local, to score without servers; nothing for these")]


def named() -> str:
    """Name a run of a flow that looks at one pipeline, or at all."""
    return f"{flow_run.flow_name}-{flow_run.parameters['pipeline'] or 'all'}"
