"""Dynamic routing with a hand-written backward: the algebra once, and a class for each formulation of the votes.

Iteration t couples by softmax(prior + votes . V), V being the sum of all earlier output capsules: it depends on the
earlier iterations through B * J * D numbers only. So nothing of the size of the votes is saved for the backward.
Letters as in ``routing``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from capslib.layers.squash import squash, squash_backward


class Formulation:
    """One way to sum the votes of one call, or of some samples of it; logits, couplings and their gradients: (B, J, I).

    Args:
        u, weight: (B, I, F); (J, F, D) or (I, J, F, D).
        bias, prior: (B, J, D); (B, J, I); or None.
        mask: (B, 1, I) of zeros and ones, or None.
    """

    saves_coupling = False  # for the backward; else it is computed again

    def __init__(
        self, u: Tensor, weight: Tensor, bias: Tensor | None, prior: Tensor | None, mask: Tensor | None
    ) -> None:
        self.u, self.weight, self.bias, self.prior, self.mask = u, weight, bias, prior, mask
        self.J = weight.shape[-3]
        self.terms: list[tuple[Tensor, Tensor]] = []  # the votes' gradient: factors (B, J, I) times vectors (B, J, D)
        self.dprior: Tensor | None = None

    @staticmethod
    def samples_at_once(u: Tensor, weight: Tensor) -> int:
        """How many samples to work on at a time."""
        return len(u)

    def couple(self, V: Tensor | None, save: bool) -> tuple[Tensor, Tensor | None]:
        """Sum of the coupled votes, (B, J, D), and the coupling, at least if ``save``; without V in iteration 1."""
        raise NotImplementedError

    def back(self, V: Tensor | None, ds: Tensor, onward: bool, coupling: Tensor | None) -> Tensor | None:
        """Take ds, the gradient of that sum, and the coupling if it was saved; return the gradient of V.

        None if there is no V or the gradient does not go ``onward`` through the coupling.
        """
        raise NotImplementedError

    def gradients(self, dweight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Of u (B, I, F), weight (added to ``dweight``), bias (B, J, D) and prior, after the last ``back``."""
        raise NotImplementedError

    def softmax(self, agreement: Tensor | None) -> Tensor:
        """Coupling from the votes' agreement, zero at masked inputs."""
        if agreement is None and self.prior is None:
            coupling = self.u.new_full((len(self.u), self.J, self.u.shape[1]), 1.0 / self.J)
        elif agreement is None or self.prior is None:
            coupling = (self.prior if agreement is None else agreement).softmax(1)
        else:
            coupling = (agreement + self.prior).softmax(1)
        return coupling if self.mask is None else coupling * self.mask

    def softmax_backward(self, coupling: Tensor, dcoupling: Tensor) -> Tensor:
        """Gradient of the logits."""
        weighted = coupling * dcoupling
        dlogits = weighted - coupling * weighted.sum(1, keepdim=True)
        if self.prior is not None:
            self.dprior = dlogits if self.dprior is None else self.dprior + dlogits
        return dlogits

    def dbias(self) -> Tensor | None:
        """Gradient of the bias, as if each sample had its own: (B, J, D)."""
        if self.bias is None:
            return None
        return sum(factor.sum(-1, keepdim=True) * vector for factor, vector in self.terms)


class SharedFormulation(Formulation):
    """Shared weight, (J, F, D): coupled inputs are summed before the product, votes are never formed."""

    saves_coupling = True  # it is a small part of u

    def __init__(self, *tensors: Tensor | None) -> None:
        super().__init__(*tensors)
        # Factors (B, J or 1, I) and vectors (B, J or 1, F) of the gradient of u; u summed by the factors, (B, J, F).
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def pull(self, x: Tensor) -> Tensor:
        """(B, J, D) -> (B, J, F)."""
        return torch.bmm(x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)  # (J, B, D) @ (J, D, F)

    def push(self, pooled: Tensor, factors: Tensor) -> Tensor:
        """Sum of votes from the sum of inputs: (B, J, F) -> (B, J, D)."""
        s = torch.bmm(pooled.transpose(0, 1), self.weight).transpose(0, 1)
        return s if self.bias is None else s + factors.sum(-1, keepdim=True) * self.bias

    def agreement(self, pulled: Tensor, x: Tensor) -> Tensor:
        """Products of all votes with x: (B, J, D) -> (B, J, I)."""
        product = torch.bmm(pulled, self.u.transpose(1, 2))
        return product if self.bias is None else product + (x * self.bias).sum(-1, keepdim=True)

    def couple(self, V: Tensor | None, save: bool) -> tuple[Tensor, Tensor | None]:
        if V is not None:
            coupling = self.softmax(self.agreement(self.pull(V), V))
            return self.push(torch.bmm(coupling, self.u), coupling), coupling
        coupling = self.softmax(None)
        alike = coupling[:, :1] if self.prior is None else coupling
        return self.push(torch.bmm(alike, self.u).expand(-1, self.J, -1), coupling), coupling

    def back(self, V: Tensor | None, ds: Tensor, onward: bool, coupling: Tensor | None) -> Tensor | None:
        pulled = self.pull(ds)
        self.terms.append((coupling, ds))
        if V is None and self.prior is None:  # the first coupling is the same for all output capsules
            alike = coupling[:, :1]
            pooled = torch.bmm(alike, self.u).expand(-1, self.J, -1)
            self.parts.append((alike, pulled.sum(1, keepdim=True), pooled))
            return None
        if not onward:
            self.parts.append((coupling, pulled, torch.bmm(coupling, self.u)))
            return None
        dlogits = self.softmax_backward(coupling, self.agreement(pulled, ds))
        pooled, dpooled = torch.bmm(torch.cat([coupling, dlogits], 1), self.u).split(self.J, 1)
        self.parts.append((coupling, pulled, pooled))
        if V is None:
            return None
        self.terms.append((dlogits, V))
        self.parts.append((dlogits, self.pull(V), dpooled))
        return self.push(dpooled, dlogits)

    def gradients(self, dweight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        factors, pulled, pooled = zip(*self.parts, strict=True)
        du = torch.bmm(torch.cat(factors, 1).transpose(1, 2), torch.cat(pulled, 1))
        pooled = torch.cat(pooled).permute(1, 2, 0)  # (J, F, k * B)
        step = torch.bmm(pooled, torch.cat([vector for _, vector in self.terms]).transpose(0, 1))
        return du, step if dweight is None else dweight + step, self.dbias(), self.dprior


class VoteFormulation(Formulation):
    """Unshared weights, (I, J, F, D): votes are formed, of so many samples at a time as a processor's cache holds."""

    @staticmethod
    def samples_at_once(u: Tensor, weight: Tensor) -> int:
        I, J, _, D = weight.shape
        return max(1, 2**20 // max(1, I * J * D)) if u.device.type == "cpu" else len(u)

    def __init__(self, *tensors: Tensor | None) -> None:
        super().__init__(*tensors)
        I, J, F, D = self.weight.shape
        self.matrices = self.weight.transpose(2, 3).reshape(I, J * D, F)
        self.votes = torch.bmm(self.u.transpose(0, 1), self.matrices.transpose(1, 2)).view(I, -1, D)  # (I, B * J, D)
        if self.bias is not None:
            self.votes.view(I, -1, J, D).add_(self.bias)
        self.rows = self.votes.transpose(0, 1)  # (B * J, I, D)

    def agreement(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Products of all votes with each of the vectors: (B, J, D) -> (B, J, I)."""
        stacked = torch.stack(vectors, 2).flatten(0, 1)  # (B * J, k, D)
        products = torch.bmm(stacked, self.rows.transpose(1, 2))  # (B * J, k, I)
        return products.unflatten(0, (-1, self.J)).unbind(2)

    def gather(self, factors: Tensor) -> Tensor:
        """Weighted sums of votes: (B, J, I) -> (B, J, D)."""
        return torch.bmm(factors.flatten(0, 1).unsqueeze(1), self.rows).view(len(factors), self.J, -1)

    def couple(self, V: Tensor | None, save: bool) -> tuple[Tensor, Tensor | None]:
        coupling = self.softmax(None if V is None else self.agreement(V)[0])
        return self.gather(coupling), coupling

    def back(self, V: Tensor | None, ds: Tensor, onward: bool, coupling: Tensor | None) -> Tensor | None:
        through = onward and not (V is None and self.prior is None)
        wanted = [x for x, needed in ((V, V is not None), (ds, through)) if needed]
        products = list(self.agreement(*wanted)) if wanted else []
        coupling = self.softmax(None if V is None else products[0])
        self.terms.append((coupling, ds))
        if not through:
            return None
        dlogits = self.softmax_backward(coupling, products[-1])
        if V is None:
            return None
        self.terms.append((dlogits, V))
        return self.gather(dlogits)

    def gradients(self, dweight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        I, J, F, D = self.weight.shape
        factors = torch.stack([factor for factor, _ in self.terms], -1).flatten(0, 1)  # (B * J, I, k)
        vectors = torch.stack([vector for _, vector in self.terms], 2).flatten(0, 1)  # (B * J, k, D)
        self.votes.copy_(torch.bmm(factors, vectors).transpose(0, 1))  # the votes are not needed any more
        dvotes = self.votes.view(I, -1, J * D)  # (I, B, J * D)
        du = torch.bmm(dvotes, self.matrices).transpose(0, 1)
        product = (dvotes.transpose(1, 2), self.u.transpose(0, 1))  # (I, J * D, B), (I, B, F)
        if dweight is None:
            dweight = torch.bmm(*product).view(I, J, D, F).transpose(2, 3)
        else:
            dweight.transpose(2, 3).view(I, J * D, F).baddbmm_(*product)
        return du, dweight, self.dbias(), self.dprior


class Routing(torch.autograd.Function):
    """``route`` by one formulation: (v, coupling of the last iteration (B, J, I), without a gradient)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        formulation: type[Formulation],
        num_iterations: int,
        detach_iterations: bool,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        outputs = []
        for some in _chunks(formulation, tensors):
            votes, V, sums, saved = formulation(*some), None, [], []
            for iteration in range(num_iterations):
                s, coupling = votes.couple(V, save=iteration + 1 == num_iterations)
                sums.append(s)
                saved.append(coupling)
                v = squash(s)
                V = v if V is None else V + v
            outputs.append((v, coupling, torch.stack(sums, 1)))
        v, coupling, sums = map(_joined, zip(*outputs, strict=True))
        saved = saved if formulation.saves_coupling else []
        ctx.save_for_backward(*tensors, sums, *saved)
        ctx.formulation, ctx.detach_iterations = formulation, detach_iterations
        ctx.mark_non_differentiable(coupling)
        return v, coupling

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dv: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        tensors, sums, saved = ctx.saved_tensors[:5], ctx.saved_tensors[5], ctx.saved_tensors[6:]
        outputs, dweight = [], None
        parts = _chunks(ctx.formulation, tensors)
        size = len(parts[0][0])
        with torch.autocast(dv.device.type, enabled=False):  # the caller of backward may be inside of one
            for some, s, dv_t in zip(parts, sums.split(size), dv.split(size), strict=True):
                votes, v = ctx.formulation(*some), squash(s)  # s, v: (B, iterations, J, D)
                last = s.shape[1] - 1
                for t in range(last, -1, -1):
                    V = v[:, :t].sum(1) if t else None
                    ds = squash_backward(s[:, t], dv_t)
                    dV = votes.back(V, ds, not ctx.detach_iterations, saved[t] if saved else None)
                    if dV is None:
                        break
                    dv_t = dV if t == last else dv_t + dV  # an earlier v is part of every later V
                du, dweight, dbias, dprior = votes.gradients(dweight)
                outputs.append((du, dbias, dprior))
        du, dbias, dprior = map(_joined, zip(*outputs, strict=True))
        return None, None, None, du, dweight, dbias, dprior, None


def _chunks(formulation: type[Formulation], tensors: Sequence[Tensor | None]) -> list[tuple[Tensor | None, ...]]:
    """(u, weight, bias, prior, mask) of a few samples at a time."""
    u, weight, *others = tensors
    size = formulation.samples_at_once(u, weight)
    if size >= len(u):
        return [tuple(tensors)]
    parts = [[None] * -(-len(u) // size) if x is None else x.split(size) for x in others]
    return [(some, weight, *rest) for some, *rest in zip(u.split(size), *parts, strict=True)]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    return parts[0] if len(parts) == 1 or parts[0] is None else torch.cat(parts)
