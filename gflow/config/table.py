"""What every table of a configuration is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


def raise_if(*checks: tuple[bool, str]) -> None:
    """Raise one ValueError with the sentence of every pair that is true."""
    wrong = [sentence for is_wrong, sentence in checks if is_wrong]
    if wrong:
        raise ValueError("\n".join(wrong))


class Table(BaseModel):
    """A table of the file: immutable, of known keys only, with no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
