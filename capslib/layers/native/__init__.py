"""Optional C++ routing for processors: votes of a few kilobytes in every iteration, samples side by side in registers.

Off by default. ``CAPSLIB_NATIVE=1`` (or ``native.load()``) compiles routing.cpp once with torch's extension loader,
which needs GCC and ninja; results differ from torch's in the last digits only.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from capslib.layers.formulations import Formulation

_LANES = {torch.float32: 16, torch.float64: 8}
_SPLITS = 16  # of the sums over input capsules, at most; the number of threads changes no result
_PAGE = 2**12
_LARGEST = 16  # input capsules longer than this are multiplied by torch's matrix product


def available() -> bool:
    """Whether there are a C++ compiler and ninja to compile with."""
    return None not in (shutil.which("ninja", path=_search_path()), shutil.which(os.environ.get("CXX", "c++")))


def _processor() -> str:
    """Eight digits for the instructions that ``-march=native`` means on this machine."""
    command = [os.environ.get("CXX", "c++"), "-march=native", "-Q", "--help=target"]
    return hashlib.sha256(subprocess.run(command, capture_output=True, check=False).stdout).hexdigest()[:8]


def _search_path() -> str:
    """PATH, and the folder of this Python's own programs, where pip puts ninja."""
    return os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])


@functools.cache
def load() -> ctypes.CDLL:
    """The compiled routing; the first call on a kind of processor compiles, for some seconds; RuntimeError if it fails.

    Should a process be killed while it compiles, others wait for the lock that it left in torch's extensions folder:
    delete the folder ``capslib_routing_*`` there.
    """
    from torch.utils import cpp_extension

    os.environ["PATH"] = _search_path()
    logging.getLogger(cpp_extension.__name__).setLevel(logging.ERROR)  # that there is no CUDA here is no news
    try:
        path = cpp_extension.load(
            name=f"capslib_routing_{_processor()}",  # homes are shared by machines, instructions are not
            sources=[str(Path(__file__).with_name("routing.cpp"))],
            extra_cflags=["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"],
            is_python_module=False,
        )
    except (RuntimeError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "error:" in line), lines[0])
        raise RuntimeError(
            f"capslib's native routing could not be compiled ({reason}): install GCC and ninja "
            "(pip install 'capslib[native]'), or unset CAPSLIB_NATIVE"
        ) from error
    return ctypes.CDLL(path)


def usable(u: Tensor) -> bool:
    """Whether ``CAPSLIB_NATIVE=1`` is set and ``u`` is for it: on the processor, float32 or float64."""
    return os.environ.get("CAPSLIB_NATIVE") == "1" and u.device.type == "cpu" and u.dtype in _LANES


def _empty(*shape: int, like: Tensor) -> Tensor:
    """Uninitialized memory; where it is large, in huge pages: small ones cost more to fetch than to fill."""
    memory = like.new_empty(*shape)
    if memory.nbytes > 2**25 and sys.platform == "linux":
        start = -(-memory.data_ptr() // _PAGE) * _PAGE
        length = (memory.data_ptr() + memory.nbytes - start) // _PAGE * _PAGE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), 14)  # MADV_HUGEPAGE: a wish, no more
    return memory


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


class NativeFormulation(Formulation):
    """As ``formulations.VoteFormulation``. Samples come last and are padded to whole registers: Bp; X is J * D."""

    @staticmethod
    def samples_at_once(u: Tensor, weight: Tensor) -> int:
        """All where votes are formed on the fly, else as many as fit into 16 MB."""
        I, J, F, D = weight.shape
        lanes = _LANES[u.dtype]
        return len(u) if F <= _LARGEST else max(1, 2**22 // (I * J * D * lanes)) * lanes

    def __init__(
        self, u: Tensor, weight: Tensor, bias: Tensor | None, prior: Tensor | None, mask: Tensor | None
    ) -> None:
        kinds = {(x.device.type, x.dtype) for x in (u, weight, bias, prior, mask) if x is not None}
        if kinds not in [{("cpu", dtype)} for dtype in _LANES]:
            raise ValueError("native routing takes float32 or float64 tensors on the processor, all of one kind")
        (self.B, I, F), (_, J, _, D) = u.shape, weight.shape
        self.lanes = _LANES[u.dtype]
        self.Bp = -(-self.B // self.lanes) * self.lanes
        self.I, self.J, self.F, self.D = I, J, F, D
        self.splits = min(_SPLITS, max(I, 1))
        self.matrices = weight.transpose(2, 3).reshape(I, J * D, F).contiguous()
        on_the_fly = F <= _LARGEST
        self.u = self._samples_last(u.permute(1, 2, 0), contiguous=on_the_fly)  # (I, F, Bp)
        self.bias = None if bias is None else self._tiles(bias)
        self.prior = None if prior is None else self._samples_last(prior.permute(2, 1, 0))  # (I, J, Bp)
        self.mask = None if mask is None else self._samples_last(mask[:, 0].t())  # (I, Bp)
        self.votes = None if on_the_fly else self._product(self.matrices, self.u)  # (I, X, Bp)
        self.terms: list[tuple[Tensor, Tensor]] = []  # factors (I, J, Bp) and vectors (tiles, X, lanes)
        self.dprior: Tensor | None = None

    def _samples_last(self, x: Tensor, contiguous: bool = True) -> Tensor:
        """(..., B) -> (..., Bp), zero behind the last sample."""
        if self.Bp == self.B:
            return x.contiguous() if contiguous else x
        return torch.cat([x, x.new_zeros(*x.shape[:-1], self.Bp - self.B)], -1)

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # a backward inside autocast would give half the bytes
            return torch.bmm(a, b, out=_empty(len(a), a.shape[1], b.shape[2], like=self.u))

    def _tiles(self, x: Tensor) -> Tensor:
        """(B, J, D) -> (tiles, X, lanes)."""
        padded = self._samples_last(x.flatten(1).t())
        return padded.view(self.J * self.D, -1, self.lanes).transpose(0, 1).contiguous()

    def _from_tiles(self, x: Tensor) -> Tensor:
        """(tiles, X, lanes) -> (B, J, D)."""
        return x.transpose(1, 2).reshape(self.Bp, self.J, self.D)[: self.B]

    def _call(self, name: str, *arguments: object) -> None:
        kind = "float" if self.u.dtype == torch.float32 else "double"
        sizes = self.I, self.F, self.J, self.D, self.Bp, self.splits, torch.get_num_threads()
        getattr(load(), f"{name}_{kind}")((ctypes.c_int64 * 7)(*sizes), *arguments)

    def _inputs(self, V: Tensor | None) -> list[ctypes.c_void_p]:
        w, u = (self.matrices, self.u) if self.votes is None else (None, self.votes)
        return [_pointer(x) for x in (w, u, self.bias, self.prior, self.mask, V)]

    def _sums(self) -> Tensor:
        return self.u.new_zeros(self.splits, self.Bp // self.lanes, self.J * self.D, self.lanes)

    def _factors(self) -> Tensor:
        return self.u.new_empty(self.I, self.J, self.Bp)

    def _first_coupling(self) -> Tensor:
        even = self._factors().fill_(1.0 / self.J) if self.prior is None else self.prior.softmax(1)
        return even if self.mask is None else even * self.mask[:, None]

    def couple(self, V: Tensor | None, save: bool) -> tuple[Tensor, Tensor | None]:
        V = None if V is None else self._tiles(V)
        sums, coupling = self._sums(), self._factors() if save else None
        self._call("forward", *self._inputs(V), _pointer(sums), _pointer(coupling))
        return self._from_tiles(sums.sum(0)), coupling.permute(2, 1, 0)[: self.B] if save else None

    def back(self, V: Tensor | None, ds: Tensor, onward: bool, coupling: Tensor | None) -> Tensor | None:
        through = onward and not (V is None and self.prior is None)
        V, ds = None if V is None else self._tiles(V), self._tiles(ds)
        if V is None and not through:  # the coupling of the first iteration does not depend on the votes
            self.terms.append((self._first_coupling(), ds))
            return None
        sums, coupling, dlogits = self._sums(), self._factors(), self._factors() if through else None
        self._call("backward", *self._inputs(V), _pointer(ds), _pointer(coupling), _pointer(dlogits), _pointer(sums))
        self.terms.append((coupling, ds))
        if not through:
            return None
        if self.prior is not None:
            self.dprior = dlogits if self.dprior is None else self.dprior + dlogits
        if V is None:
            return None
        self.terms.append((dlogits, V))
        return self._from_tiles(sums.sum(0))

    def gradients(self, dweight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        k = len(self.terms)
        factors = (ctypes.c_void_p * k)(*(factor.data_ptr() for factor, _ in self.terms))
        vectors = (ctypes.c_void_p * k)(*(vector.data_ptr() for _, vector in self.terms))
        if self.votes is None:
            dmatrices, du = torch.empty_like(self.matrices), torch.empty_like(self.u)
            w, u = _pointer(self.matrices), _pointer(self.u)
            self._call("finish", w, u, ctypes.c_int64(k), factors, vectors, _pointer(dmatrices), _pointer(du), None)
        else:
            self._call("finish", None, None, ctypes.c_int64(k), factors, vectors, None, None, _pointer(self.votes))
            # The votes are their gradient by now.
            du = self._product(self.votes.transpose(1, 2), self.matrices).transpose(1, 2)
            dmatrices = self._product(self.votes, self.u.transpose(1, 2))
        dbias = None
        if self.bias is not None:
            dbias = sum(f.sum(0).t()[: self.B, :, None] * self._from_tiles(v) for f, v in self.terms)
        step = dmatrices.view(self.I, self.J, self.D, self.F).transpose(2, 3)
        dweight = step if dweight is None else dweight.add_(step)
        dprior = None if self.dprior is None else self.dprior.permute(2, 1, 0)[: self.B]
        return du.permute(2, 0, 1)[: self.B], dweight, dbias, dprior
