"""Fastfood layers for PyTorch: y = S H G P H B x + bias, trained or random, and their export.

Yang et al., "Deep Fried Convnets", 2014 (arXiv 1412.7149); Le, Sarlos, Smola, "Fastfood", 2013. H
is the Walsh-Hadamard matrix divided by sqrt(d), its own inverse and its own transpose; the papers
leave it undivided.
"""
from __future__ import annotations

import torch
from torch import nn

from edgerun.ops.fastfood import permutation

DOMAIN, OPSET = "edgerun", 1


def _hadamard(n: int, like: torch.Tensor) -> torch.Tensor:
    h = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)]) * 0.5**0.5
    return h


def transform(x: torch.Tensor) -> torch.Tensor:
    """Return H x over the last axis of d = 2^k elements.

    H of d is the Kronecker product of two smaller ones: as products of matrices of about sqrt(d),
    which costs d^1.5 multiplications instead of d log d, but a CPU is far better at them.
    """
    d = x.shape[-1]
    rows = 1 << (d.bit_length() - 1) // 2
    blocks = x.reshape(*x.shape[:-1], rows, d // rows)
    return (_hadamard(rows, x) @ blocks @ _hadamard(d // rows, x)).reshape(x.shape)


class _Product(torch.autograd.Function):
    """S H G P H B x over blocks, with the paper's gradients: each is a product of this kind."""

    @staticmethod
    def forward(ctx, x, b, g, s, perm, inverse):
        before = transform(x.unsqueeze(-2) * b)
        gathered = before.gather(-1, perm.expand_as(before))
        after = transform(gathered * g)
        ctx.save_for_backward(x, b, g, s, perm, inverse, gathered, after)
        return after * s

    @staticmethod
    def backward(ctx, dy):
        x, b, g, s, perm, inverse, gathered, after = ctx.saved_tensors
        inner = transform(s * dy)
        back = g * inner
        outer = transform(back.gather(-1, inverse.expand_as(back)))
        batch = tuple(range(dy.dim() - 2))
        return ((b * outer).sum(-2), (outer * x.unsqueeze(-2)).sum(batch),
                (inner * gathered).sum(batch), (dy * after).sum(batch), None, None)


def _absent(graph):
    """Return what stands for an input that is left out."""
    value = graph.op("prim::Constant")
    value.setType(torch._C.OptionalType.ofTensor())
    return value


class _Exported(torch.autograd.Function):
    """Stands for a whole layer while it is exported: one node of the domain edgerun."""

    @staticmethod
    def forward(ctx, x, b, g, s, perm, bias, seed, outputs):
        return x.new_zeros((*x.shape[:-1], outputs))

    @staticmethod
    def symbolic(graph, x, b, g, s, perm, bias, seed, outputs):
        inputs = [x, b, g, s]
        if perm is not None or bias is not None:
            inputs.append(_absent(graph) if perm is None else perm)
        if bias is not None:
            inputs.append(bias)
        y = graph.op(f"{DOMAIN}::Fastfood", *inputs, out_i=outputs, seed_i=seed)
        sizes = x.type().sizes()
        return y.setType(x.type().with_sizes([*sizes[:-1], outputs]))


class Fastfood(nn.Module):
    """y = (S H G P H B x)[:outputs] + bias, x filled up with zeros to a power of two d;
    ceil(outputs / d) such blocks, each with its own S, G, B and P, one behind the other.

    Args:
        inputs, outputs: as of nn.Linear.
        adaptive: train S, G and B; else they stay as drawn, and only the bias is trained.
        bias: add one.
        seed: of the permutations, see edgerun.ops.fastfood.permutation, and of what is drawn.
        stored: export the permutations; else the seed, which the kernel makes them of.
    """

    def __init__(self, inputs: int, outputs: int, adaptive: bool = True, bias: bool = True,
                 seed: int = 0, stored: bool = False):
        super().__init__()
        self.inputs, self.outputs, self.seed, self.stored = inputs, outputs, seed, stored
        d = max(2, 1 << (inputs - 1).bit_length())
        blocks = -(-outputs // d)
        perm = torch.from_numpy(permutation(seed, blocks, d)).long()
        self.register_buffer("perm", perm, persistent=False)
        self.register_buffer("inverse", perm.argsort(-1), persistent=False)
        for name, values in zip("bgs", self._drawn(blocks, d)):
            if adaptive:
                setattr(self, name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def _drawn(self, blocks: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """B of +-1, G of a normal distribution, S such that the rows of the product are as long as
        those of a matrix of normal numbers with the variance 2 / inputs (Le et al., 2013)."""
        rng = torch.Generator().manual_seed(self.seed)
        b = torch.randint(0, 2, (blocks, d), generator=rng) * 2.0 - 1
        g = torch.randn(blocks, d, generator=rng)
        lengths = torch.randn(blocks, d, d, generator=rng).norm(dim=-1) if d <= 2048 else \
            torch.full((blocks, d), float(d)**0.5)  # chi(d), hardly different from its mean
        scale = (2 * d / self.inputs)**0.5
        return b, g, scale * lengths / g.norm(dim=-1, keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.onnx.is_in_onnx_export():
            return _Exported.apply(x, self.b, self.g, self.s, self.perm if self.stored else None,
                                   self.bias, self.seed, self.outputs)
        x = nn.functional.pad(x, (0, self.b.shape[-1] - self.inputs))
        y = _Product.apply(x, self.b, self.g, self.s, self.perm, self.inverse)
        y = y.flatten(-2)[..., :self.outputs]
        return y if self.bias is None else y + self.bias

    def matrix(self) -> torch.Tensor:
        """Return the product as a matrix [outputs, inputs], each factor written out."""
        d = self.b.shape[-1]
        h, rows = _hadamard(d, self.b), []
        for b, g, s, perm in zip(self.b, self.g, self.s, self.perm):
            p = torch.eye(d, dtype=h.dtype)[perm]
            rows.append(s.diag() @ h @ g.diag() @ p @ h @ b.diag())
        return torch.cat(rows)[:self.outputs, :self.inputs]
