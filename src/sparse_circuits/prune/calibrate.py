"""Calibration: z' = a (z_A - z_B) + b on the contrast of the two completions (METHOD D6).

a = exp(s) > 0, so calibration can never swap the answers; b only where both completions are fixed for the task. Sixteen
LBFGS steps on contrasts cached once from the training pairs; nothing else is fitted.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.circuit import Calibration
from sparse_circuits.circuit.evaluate import binary_losses

STEPS = 16


def calibrate(contrasts: Float[Tensor, "n 2"], *, shift: bool) -> Calibration:
    """Fits scale, and shift where allowed, to z_A - z_B of the training pairs [n, (prompt A, prompt B)]."""
    cached = contrasts.detach().double()
    s, b = (
        torch.zeros((), dtype=torch.double, requires_grad=True),
        torch.zeros((), dtype=torch.double, requires_grad=shift),
    )
    optimizer = torch.optim.LBFGS([s, b] if shift else [s], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = binary_losses(s.exp() * cached + b).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = Calibration(scale=float(s.detach().exp()), shift=float(b.detach()))
    better = binary_losses(found.scale * cached + found.shift).mean() <= binary_losses(cached).mean()
    return found if better else Calibration(scale=1.0, shift=0.0)
