"""An accelerator that computes on the CPU, and is as strict about devices as CUDA.

Within `emulated()`, `torch.device("emulated")` behaves like a GPU: its tensors are not CPU tensors, and an operation
that mixes the two raises, as do a generator of another device, `numpy()`, and float64 if `float64=False`. This tests
that code does not mix devices, without a GPU.

It uses torch's experimental Python backends; `available()` tells whether this version of torch has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "emulated"
aten = torch.ops.aten
_MOVES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default, aten._foreach_copy_.default}
_INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_READS = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.item.default, aten.equal.default}
_JOINS = {aten.cat.default, aten.stack.default, aten.embedding.default, aten.index_select.default, aten.gather.default}


class MixedDevices(RuntimeError):
    """An operation that CUDA would refuse."""


def available() -> bool:
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@contextmanager
def emulated(float64: bool = True) -> Iterator[Accelerator]:
    """Context manager that provides a torch device called "emulated"."""
    _register()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a moved parameter stays the same object, as on CUDA
    try:
        with _Tensor(), Accelerator(float64) as accelerator:
            yield accelerator
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class _Tensor(TorchFunctionMode):
    """`torch.tensor(…, device=…)`, whose copy to the device is invisible to dispatch modes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Accelerator(TorchDispatchMode):
    """Attributes:
    reads: number of times the CPU waited for a value from the device, as in `.item()`.
    """

    def __init__(self, float64: bool):
        super().__init__()
        self.float64, self.reads = float64, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = tree_leaves((args, kwargs))
        here = [x for x in given if isinstance(x, EmulatedTensor)]
        wanted = kwargs.get("device")
        makes = wanted is not None and torch.device(wanted).type == NAME
        if not here and not makes:
            return func(*args, **kwargs)
        if func in _READS:
            self.reads += 1
        self._check(func, args, given, here, kwargs)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu") if makes else wanted
        kwargs.pop("pin_memory", None)
        plain_args, plain_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
        out = func(*plain_args, **plain_kwargs)
        if wanted is not None and not makes:  # moved to the CPU
            return out
        if func is aten.copy_.default and not isinstance(args[0], EmulatedTensor):  # copied into a CPU tensor
            return args[0]
        wrapped = tree_map(lambda x: EmulatedTensor(x) if isinstance(x, Tensor) else x, out)
        if self.float64 is False and any(x.dtype == torch.float64 for x in tree_leaves(wrapped) if _is_tensor(x)):
            raise MixedDevices(f"{func} makes float64")
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _check(self, func, args, given: list, here: list, kwargs: dict) -> None:
        generator = next((x for x in given if isinstance(x, torch.Generator)), None)
        if generator is not None and generator.device.type != NAME:
            raise MixedDevices(f"{func}: expected a {NAME!r} generator, found one of {generator.device.type!r}")
        away = [x for x in given if isinstance(x, Tensor) and not isinstance(x, EmulatedTensor)]
        if func in _MOVES or not away:
            return
        if func in _INDEXES:  # indices and masks may be on the CPU
            away = [x for x in (args[0], *args[2:3]) if _is_tensor(x) and not isinstance(x, EmulatedTensor)]
        if func not in _JOINS:
            away = [x for x in away if x.ndim > 0]
        if away:
            shapes = [tuple(x.shape) for x in away]
            raise MixedDevices(f"{func}: expected all tensors on {NAME}, but those of shapes {shapes} are on the CPU")


class EmulatedTensor(Tensor):
    """A tensor that reports the emulated device, wrapping a CPU tensor."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> EmulatedTensor:
        how = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
        made = Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=torch.device(NAME, 0), **how)
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is Tensor.tolist:  # torch does not support it for subclasses
            return args[0].cpu().tolist()
        if func in (Tensor.untyped_storage, Tensor.data_ptr):  # used to identify tensors that share memory
            return func(args[0].inner)
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError(f"can't convert a tensor of {NAME} to numpy: copy it to the CPU first")
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # torch would create a tensor on the device from a list
            args = (args[0], tree_map(_listed, args[1], is_leaf=lambda x: isinstance(x, list)), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise MixedDevices(f"{func} on a tensor of a device that is gone")

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)  # stored as a CPU tensor

    def __repr__(self) -> str:
        return f"emulated({self.inner!r})"


def _inner(x):
    return x.inner if isinstance(x, EmulatedTensor) else x


def _listed(x):
    return torch.tensor(x) if isinstance(x, list) else x


def _is_tensor(x) -> bool:
    return isinstance(x, Tensor)


class _Module(backend_registration._DummyBackendModule if available() else object):
    """torch.emulated"""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    def synchronize(self, device=None) -> None:
        pass


# Autocast as on CUDA, for the operations that the models here use.
_HALF = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv_transpose2d", "_convolution")
_HALF += ("scaled_dot_product_attention",)
_SINGLE = ("exp", "log", "log1p", "expm1", "rsqrt", "reciprocal", "softplus", "layer_norm", "group_norm", "prod")
_SINGLE += ("cumsum", "cumprod", "mse_loss", "l1_loss", "nll_loss", "cross_entropy_loss", "logsumexp")
_LIBRARIES: list[torch.library.Library] = []  # kernels are registered for as long as these are alive


def _register() -> None:
    if hasattr(torch, NAME):
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    key = "AutocastPrivateUse1"
    rest, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, key)
    for names, dtype in ((_HALF, None), (_SINGLE, torch.float32)):
        for name in names:
            for overload in getattr(aten, name).overloads():
                if "out" not in overload.split("_"):
                    op = getattr(getattr(aten, name), overload)
                    own.impl(op, _casting(op, dtype), key)
    _LIBRARIES.extend((rest, own))


def _casting(op, dtype: torch.dtype | None):
    """The operation with its floats cast to autocast's dtype (None), or to a wider one."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def kernel(*args, **kwargs):
        to = torch.get_autocast_dtype(NAME) if dtype is None else dtype

        def cast(x):
            floats = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
            return x.to(to) if floats else x

        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel
