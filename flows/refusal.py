"""A gate's refusal: a good run with a recorded reason, not a crash."""


class Refused(Exception):
    """What a gate did not let pass, one reason a line; the command line turns it into exit code 3."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons
