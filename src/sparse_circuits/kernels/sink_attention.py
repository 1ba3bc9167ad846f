"""Causal attention, with a sink or without, through the fused attention kernel of the CPU.

Reference: `model.transformer.attention_pattern` and the product with v. A sink adds exp(b) to the softmax denominator
and nothing to the sum (METHOD 1d), so with lse the log-sum-exp of the scores
    out = out_without_sink * sigmoid(lse - b).
Backward: the fused backward kernel rebuilds the pattern as exp(score - lse); given lse' = logaddexp(lse, b) and the
output with sink it rebuilds the pattern with sink, and its gradients of q, k, v are the exact ones. The gradient of b
is -sum(p_sink * <grad_out, out>).

Shapes: B batch, H heads, T tokens, D d_head.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Heads = Float[Tensor, "B H T D"]


def available(q: Tensor) -> bool:
    """Whether this torch build has the fused kernel for tensors like q."""
    has_kernel = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    return has_kernel and q.numel() > 0 and q.device.type == "cpu" and q.dtype in (torch.float32, torch.bfloat16)


def sink_attention(q: Heads, k: Heads, v: Heads, sink: Float[Tensor, " H"] | None) -> Heads:
    """Causal softmax(q k' / sqrt(D)) v with a sink logit per head, or without."""
    if sink is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _SinkAttention.apply(q, k, v, sink)


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, sink):  # pyright: ignore
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        real = torch.sigmoid(lse - sink[:, None].to(lse.dtype))
        out = out * real.unsqueeze(-1).to(out.dtype)
        ctx.save_for_backward(q, k, v, sink, out, lse, real)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        q, k, v, sink, out, lse, real = ctx.saved_tensors
        with_sink = torch.logaddexp(lse, sink[:, None].to(lse.dtype).expand_as(lse))
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grad_q, grad_k, grad_v = backward(grad, q, k, v, out, with_sink, 0.0, True)
        spread = (grad * out).sum(-1, dtype=lse.dtype)
        grad_sink = -((1 - real) * spread).sum((0, 2)).to(sink.dtype)
        return grad_q, grad_k, grad_v, grad_sink
