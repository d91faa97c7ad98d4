"""How the implicit gradient is formed from the Jacobian J of the fixed-point map.

The implicit function theorem multiplies by (I - J)^-1; training often uses a cheaper operator B(J):

=============== ==========================================================================
``exact``       B = (I - J)^-1
``jfb``         B = I (Fung et al. 2022, Jacobian-free backpropagation)
``neumann:K``   B = sum_{k<K} J^k
``damped:K:L``  B = L sum_{k<K} (L J + (1 - L) I)^k (Geng et al. 2021, phantom gradient)
``phantom:K:L`` K damped iterations from the fixed point, unrolled and differentiated (the same
                paper's unrolled form): the same B, but for what the fixed point was missed by
=============== ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gflow.errors import ProblemError


@dataclass(frozen=True)
class Backward:
    """The operator B(J) of a backward pass.

    Attributes
    ----------
    name : str
        As the user wrote it, e.g. ``"damped:2:0.5"``.
    terms : int
        Terms K of the series; 0 for the exact inverse.
    damping : float
        Weight of the damped iteration, 1 for the plain Neumann series.
    """

    name: str
    terms: int = 0
    damping: float = 1.0

    @property
    def unrolled(self) -> bool:
        """Whether iterations are to be differentiated, and not the series formed."""
        return self.name.startswith("phantom")

    @property
    def exact(self) -> bool:
        """Whether this is the implicit function theorem itself."""
        return self.terms == 0

    def factor(self, jacobian: Tensor) -> Tensor:
        """B(J) for scalar fixed points, elementwise."""
        if self.exact:
            return 1.0 / (1.0 - jacobian)
        power = self._ratio(jacobian)
        total = torch.ones_like(jacobian)
        for _ in range(self.terms - 1):
            total = 1.0 + power * total
        return self.damping * total

    def derivative(self, jacobian: Tensor) -> Tensor:
        """dB/dJ for scalar fixed points, elementwise."""
        if self.exact:
            return (1.0 - jacobian) ** -2
        power = self._ratio(jacobian)
        total, slope = torch.ones_like(jacobian), torch.zeros_like(jacobian)
        for _ in range(self.terms - 1):
            total, slope = 1.0 + power * total, total + power * slope
        return self.damping**2 * slope

    def _ratio(self, jacobian: Tensor) -> Tensor:
        return self.damping * jacobian + (1.0 - self.damping)


def parse_backward(text: str | Backward) -> Backward:
    """Read ``exact``, ``jfb``, ``neumann:K``, ``damped:K:L`` or ``phantom:K:L``.

    Raises
    ------
    ProblemError
        If the text is none of these, K is not a positive integer, or L not in (0, 1].
    """
    if isinstance(text, Backward):
        return text
    kind, *arguments = str(text).split(":")
    try:
        match kind, arguments:
            case "exact", []:
                return Backward(text)
            case "jfb", []:
                return Backward(text, terms=1)
            case "neumann", [count] if int(count) >= 1:
                return Backward(text, terms=int(count))
            case "damped" | "phantom", [count, weight] if 0 < float(weight) <= 1:
                if int(count) >= 1:
                    return Backward(text, terms=int(count), damping=float(weight))
    except ValueError:
        pass
    raise ProblemError(
        f'backward is "{text}"; it must be exact, jfb, neumann:K (K a positive integer, as in '
        "neumann:3), or damped:K:L or phantom:K:L (0 < L <= 1, as in damped:2:0.5)."
    )
