"""Routing kernels against plain torch in float64: through Triton's interpreter anywhere, and on a GPU if there is one.

The interpreter has to be chosen before Triton is first imported, and then holds for the whole process. So the first
test runs this file again in a process of its own; to see one of those tests alone:
TRITON_INTERPRET=1 pytest tests/layers/test_kernels.py -k ...
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capslib.layers import kernels, route

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PROPERTY = settings(max_examples=10, deadline=None, derandomize=True, database=None)
NAMES = ("u", "weight", "bias", "prior")
needs_triton = pytest.mark.skipif(
    kernels.triton is None, reason="Triton is not installed: it has wheels for Linux x86_64"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def reference(u, weight, iterations, bias=None, mask=None, prior=None, detach=False):
    """Procedure 1 of Sabour et al. as it is written, with all votes and growing logits; autograd does the rest."""
    equation = "bif,jfd->bijd" if weight.dim() == 3 else "bif,ijfd->bijd"
    votes = torch.einsum(equation, u, weight)
    if bias is not None:
        votes = votes + (bias if bias.dim() == 2 else bias[:, None])
    logits = votes.new_zeros(votes.shape[:3])
    if prior is not None:
        logits = logits + prior
    for t in range(iterations):
        coupling = logits.softmax(-1)
        if mask is not None:
            coupling = coupling * mask[..., None]
        if detach:
            coupling = coupling.detach()
        s = (coupling[..., None] * votes).sum(1)
        square = (s * s).sum(-1, keepdim=True)
        v = s * square / (1 + square) / (square + torch.finfo(s.dtype).tiny ** 0.5).sqrt()
        if t + 1 < iterations:
            logits = logits + (votes * v[:, None]).sum(-1)
    return v, coupling


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(B, I, F, J, D, *, shared, bias="none", prior="none", mask="none", scale=1.0, strided=False, seed=0):
    """Float64 leaves by name, of the sizes asked for; ``strided`` ones are not contiguous."""
    shapes = {"u": (B, I, F), "weight": (J, F, D) if shared else (I, J, F, D)}
    shapes["bias"] = {"none": None, "one": (J, D), "clip": (B, J, D)}[bias]
    shapes["prior"] = {"none": None, "one": (J,), "input": (I, J), "all": (B, I, J)}[prior]
    leaves = {}
    for index, (name, shape) in enumerate(shapes.items()):
        if shape is None:
            leaves[name] = None
        elif strided:
            leaves[name] = draw(*shape[::-1], 2, seed=seed + index, scale=scale)[..., 0].permute(
                *reversed(range(len(shape)))
            )
        else:
            leaves[name] = draw(*shape, seed=seed + index, scale=scale)
    some = torch.rand(B, I, generator=torch.Generator().manual_seed(seed)) > 0.4
    leaves["mask"] = {"none": None, "some": some, "nothing": torch.zeros(B, I, dtype=torch.bool)}[mask]
    return leaves


def both(route, leaves, iterations, detach, dtype=torch.float64, device="cpu"):
    """The output, the coupling and the gradients of every input for one fixed direction."""
    at = {n: x if x is None or n == "mask" else x.to(dtype) for n, x in leaves.items()}
    at = {n: x if x is None else x.to(device) for n, x in at.items()}
    asked = [at[n].detach().requires_grad_() for n in NAMES if at[n] is not None]
    at |= dict(zip([n for n in NAMES if at[n] is not None], asked, strict=True))
    v, coupling = route(at["u"], at["weight"], iterations, at["bias"], at["mask"], at["prior"], detach)
    direction = draw(*v.shape, seed=99).to(v)
    grads = torch.autograd.grad(v, asked, direction, allow_unused=True)
    return v, coupling, [torch.zeros_like(x) if g is None else g for g, x in zip(grads, asked, strict=True)]


def compare(leaves, iterations, detach=False, dtype=torch.float64, device="cpu", tolerance=1e-9):
    ours = both(kernels.routed, leaves, iterations, detach, dtype, device)
    theirs = both(reference, leaves, iterations, detach)
    for mine, right in zip((*ours[:2], *ours[2]), (*theirs[:2], *theirs[2]), strict=True):
        assert mine.shape == right.shape and mine.dtype == dtype
        largest = right.abs().max().item() if right.numel() else 0.0
        torch.testing.assert_close(mine.double().cpu(), right, rtol=tolerance, atol=tolerance * max(largest, 1e-3))


# --- In any process


class TestHere:
    __test__ = not INTERPRETED

    @needs_triton
    def test_through_the_interpreter(self):
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]

    def test_without_triton_the_module_imports_and_says_what_to_do(self):
        program = """
import sys
sys.modules["triton"] = None
import torch
from capslib.layers import kernels
u, weight = torch.zeros(1, 2, 3), torch.zeros(4, 3, 5)
assert not kernels.usable(u, weight)
try:
    kernels.routed(u, weight)
except ValueError as error:
    print(error)
"""
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert ran.stdout == "Triton is not installed: use route, which falls back to torch\n", ran.stderr

    def test_tensors_on_the_cpu_are_left_to_torch(self):
        assert not kernels.usable(torch.zeros(1, 2, 3), torch.zeros(4, 3, 5))


# --- On a GPU


@needs_cuda
@needs_triton
class TestCuda:
    __test__ = not INTERPRETED
    STUDY = (
        (32, 1152, 8, 10, 16, False),
        (144, 1280, 8, 8, 8, False),
        (32, 300, 256, 10, 16, True),
        (32, 300, 256, 10, 16, False),
    )

    @pytest.mark.parametrize("detach", [False, True])
    @pytest.mark.parametrize("sizes", STUDY)
    def test_the_study_shapes(self, sizes, detach):
        *shape, shared = sizes
        leaves = inputs(*shape, shared=shared, bias="one", prior="one", mask="some", scale=0.1)
        compare(leaves, 3, detach, torch.float32, "cuda", tolerance=1e-3)

    @pytest.mark.parametrize("sizes", STUDY)
    def test_two_runs_give_the_same_bits(self, sizes):
        *shape, shared = sizes
        leaves = inputs(*shape, shared=shared, scale=0.1)
        one, two = (both(kernels.routed, leaves, 3, False, torch.float32, "cuda") for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip((*one[:2], *one[2]), (*two[:2], *two[2]), strict=True))


# --- Through the interpreter


class TestInterpreted:
    __test__ = INTERPRETED

    @PROPERTY
    @given(
        sizes=st.tuples(*[st.integers(1, 3)] * 5),
        iterations=st.integers(1, 4),
        shared=st.booleans(),
        bias=st.sampled_from(["none", "one", "clip"]),
        prior=st.sampled_from(["none", "one", "input", "all"]),
        mask=st.sampled_from(["none", "some", "nothing"]),
        detach=st.booleans(),
        strided=st.booleans(),
        seed=st.integers(0, 99),
        programs=st.sampled_from([2, kernels.PROGRAMS]),
    )
    def test_output_coupling_and_every_gradient(
        self, sizes, iterations, shared, bias, prior, mask, detach, strided, seed, programs
    ):
        leaves = inputs(*sizes, shared=shared, bias=bias, prior=prior, mask=mask, strided=strided, seed=seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "PROGRAMS", programs)  # few programs take several steps each
            compare(leaves, iterations, detach)

    @pytest.mark.parametrize(
        "sizes, shared, programs",
        [
            ((33, 2, 2, 1, 4), False, 2),  # more clips than a tile, all in one program of the last launch
            ((33, 1, 2, 1, 4), False, 256),  # or divided among several
            ((1, 9, 2, 2, 3), False, 2),
            ((2, 70, 3, 1, 5), True, 2),  # more inputs than a tile, in one program
            ((1, 70, 3, 2, 5), True, 256),
            ((2, 2, 70, 3, 12), False, 256),  # F in several parts
            ((1, 3, 70, 5, 12), True, 256),
            ((1, 2, 3, 17, 2), False, 256),
            ((1, 2, 3, 17, 2), True, 256),
        ],
    )
    def test_sizes_beyond_one_tile(self, sizes, shared, programs, monkeypatch):
        monkeypatch.setattr(kernels, "PROGRAMS", programs)
        compare(inputs(*sizes, shared=shared, bias="clip", prior="all", mask="some", scale=0.7), 2)

    @pytest.mark.parametrize("sizes", [(0, 3, 2, 2, 3), (2, 0, 2, 2, 3)])
    @pytest.mark.parametrize("shared", [False, True])
    def test_no_clips_and_no_inputs_are_left_to_torch(self, sizes, shared):
        leaves = inputs(*sizes, shared=shared)
        with pytest.raises(ValueError, match="the kernels take no empty tensors: use route"):
            kernels.routed(leaves["u"], leaves["weight"])

    @pytest.mark.parametrize("shared", [False, True])
    def test_single_precision(self, shared):
        leaves = inputs(2, 5, 3, 2, 3, shared=shared, bias="one", prior="one", mask="some", scale=0.5)
        leaves = {n: x if x is None or n == "mask" else x.float().double() for n, x in leaves.items()}
        compare(leaves, 3, dtype=torch.float32, tolerance=1e-4)

    @pytest.mark.parametrize("shared", [False, True])
    def test_two_runs_give_the_same_bits(self, shared):
        leaves = inputs(2, 5, 3, 2, 3, shared=shared, bias="one", prior="one", mask="some")
        one, two = (both(kernels.routed, leaves, 3, False, torch.float32) for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip((*one[:2], *one[2]), (*two[:2], *two[2]), strict=True))

    @pytest.mark.parametrize("shared", [False, True])
    def test_what_stands_at_masked_inputs_is_not_read(self, shared):
        leaves = inputs(2, 4, 3, 2, 3, shared=shared, mask="some")
        clean = both(kernels.routed, leaves, 3, False)
        leaves["u"][~leaves["mask"]] = float("nan")
        dirty = both(kernels.routed, leaves, 3, False)
        for x, y in zip((*clean[:2], *clean[2]), (*dirty[:2], *dirty[2]), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)

    @pytest.mark.parametrize("shared", [False, True])
    def test_the_graph_can_be_used_twice_and_for_some_inputs_only(self, shared):
        leaves = inputs(1, 4, 3, 2, 3, shared=shared, bias="one", prior="one")
        full = both(kernels.routed, leaves, 3, False)[2]
        for index, name in enumerate(NAMES):
            if name not in ("u", "bias"):
                continue
            at = {n: x.clone().requires_grad_(n == name) for n, x in leaves.items() if x is not None}
            v, _ = kernels.routed(at["u"], at["weight"], 3, at["bias"], None, at["prior"])
            direction = draw(*v.shape, seed=99)
            for _ in range(1 + (name == "u")):
                (grad,) = torch.autograd.grad(v, at[name], direction, retain_graph=True)
                torch.testing.assert_close(grad, full[index])

    def test_without_a_gradient_the_output_is_the_same(self):
        leaves = inputs(1, 4, 3, 2, 3, shared=False)
        u, weight = leaves["u"].requires_grad_(), leaves["weight"]
        v, coupling = kernels.routed(u, weight, 4)
        with torch.no_grad():
            bare = kernels.routed(u, weight, 4)
        assert not coupling.requires_grad and not bare[0].requires_grad
        assert torch.equal(v, bare[0]) and torch.equal(coupling, bare[1])

    def test_shapes_and_sizes_that_do_not_fit_are_named(self):
        u, weight = torch.zeros(2, 6, 3), torch.zeros(4, 3, 5)
        with pytest.raises(ValueError, match="does not fit"):
            route(u, torch.zeros(5, 4, 3, 5), formulation="triton")
        with pytest.raises(ValueError, match="bias"):
            route(u, weight, bias=torch.zeros(4, 6), formulation="triton")
        with pytest.raises(ValueError, match="mask"):
            route(u, weight, mask=torch.ones(2, 5, dtype=torch.bool), formulation="triton")
        with pytest.raises(ValueError, match="num_iterations=0: must be at least 1"):
            route(u, weight, 0, formulation="triton")
        with pytest.raises(ValueError, match="at most 64"):
            route(u, torch.zeros(4, 3, 65), formulation="triton")
