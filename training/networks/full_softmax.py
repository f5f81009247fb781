"""Cross-entropy over every item of a catalogue, a slice of rows at a time.

The logits [n, items] of a batch would be its largest tensor by far. Here a slice of them is made, turned into its own
gradient in place and multiplied out while it lies in the processor's cache. Knows nothing of sequences.

Symbols: n rows, d width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SLICE = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Number of logits in a slice, by device."""


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        grad_hidden, grad_table = torch.empty_like(hidden), torch.zeros_like(table)
        total = hidden.new_zeros(())
        size = max(1, SLICE[hidden.device.type] // len(table))
        for at in range(0, len(hidden), size):
            rows, wanted = hidden[at : at + size], targets[at : at + size, None]
            logits = rows @ table.T
            highest = logits.amax(dim=1, keepdim=True)
            total += (highest - logits.gather(1, wanted)).sum()
            sums = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
            total += sums.log().sum()
            # The gradient of the logits: the softmax, less 1 at the target.
            gradient = logits.div_(sums).scatter_add_(1, wanted, -torch.ones_like(sums))
            torch.mm(gradient, table, out=grad_hidden[at : at + size])
            grad_table.addmm_(gradient.T, rows)
        ctx.save_for_backward(grad_hidden, grad_table)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_table = ctx.saved_tensors
        scale = gradient / len(grad_hidden)
        return grad_hidden * scale, grad_table * scale, None


def full_softmax_loss(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of `hidden @ table.T`, a scalar; differentiable once.

    Parameters
    ----------
    hidden : float32 [n, d], what was asked
    table : float32 [items, d], one row an item
    targets : int64 [n], the right item of each row
    """
    loss: Tensor = _FullSoftmax.apply(hidden, table, targets)  # type: ignore[no-untyped-call]
    return loss
