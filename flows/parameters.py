"""What Prefect's form asks for: the parameters of the flows that people and schedules start."""

from pathlib import Path
from typing import Annotated

from prefect.runtime import flow_run
from pydantic import Field

from tasks.params import NAME

Pipeline = Annotated[
    str, Field(title="Pipeline", description="a block of params.yaml", pattern=f"^{NAME}$", examples=["fashion"])
]
Reason = Annotated[str, Field(title="Reason", description="why, for those who look at the run later", max_length=1000)]
Folder = Annotated[
    Path, Field(title="Folder", description="whose files are scored; relative to the checkout, or absolute")
]
Answers = Annotated[Path, Field(title="Answers", description="the file to write, as in answers.parquet")]


def named() -> str:
    """Name a run of a flow that looks at one pipeline, or at all."""
    return f"{flow_run.flow_name}-{flow_run.parameters['pipeline'] or 'all'}"
