"""A stand-in accelerator `acc` with two devices over CPU data, as strict as CUDA where CUDA refuses.

In: nothing; `install()` once per process, before DeepSpeed is imported, then all work inside `Strict()`. It refuses
tensors of several devices in one operator, host tensors beside device tensors (scalars pass, except in fused and
foreach operators), and collectives over the `strict` backend from any device but the rank's own. It counts what would
synchronise: values read by the host, results whose size depends on values, blocking copies between host and device, and
calls that say so. Streams: see `stand_in_streams`. Built on torch's experimental Python backends
(`_setup_privateuseone_for_python_backend`), tried with torch 2.13.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from tests.recipe.train import stand_in_streams

MOVES = {"aten::copy_", "aten::_to_copy", "aten::set_"}
"""Operators that may touch several devices."""
SYNCHRONISES = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    # The host must know how many values come out.
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
}

STAND_IN = ("/stand_in.py", "/stand_in_rank.py")
"""Files of the device itself and of what DeepSpeed is told about it: who calls them waits."""

synchronisations: Counter[str] = Counter()
"""Calls that would wait for the device: ours and DeepSpeed's."""
places: Counter[str] = Counter()
"""The same by file and line."""
library = torch.library.Library("aten", "IMPL")


class Module(_DummyBackendModule):
    """`torch.acc`; the current device belongs to a thread, as CUDA's does."""

    _local = threading.local()

    def current_device(self) -> int:
        return getattr(self._local, "device", 0)

    def set_device(self, device: Any) -> None:
        self._local.device = device if isinstance(device, int) else torch.device(device).index

    def device_count(self) -> int:
        return 2

    def is_bf16_supported(self) -> bool:
        return True

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, *_: Any) -> None:
        waited()

    Stream = stand_in_streams.Stream

    def current_stream(self, *_: Any) -> stand_in_streams.Stream:
        return stand_in_streams.current()

    def stream(self, stream: stand_in_streams.Stream) -> Any:
        return stand_in_streams.on(stream)


class Queue:
    """A stream or an event as DeepSpeed takes it: all that it does is on one stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _nothing(self, *_: Any) -> None:
        pass

    record = wait = wait_event = wait_stream = _nothing

    def record_event(self, *_: Any) -> Queue:
        return self

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        waited()


module = Module()


class DeviceTensor(torch.Tensor):
    """A tensor on `acc`: device, shape and strides here, the data in a CPU tensor."""

    host: torch.Tensor
    memory: stand_in_streams.Memory
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(
        cls, host: torch.Tensor, device: torch.device, memory: stand_in_streams.Memory | None = None
    ) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=device,
            requires_grad=False,
        )
        made.host, made.memory = host, memory or stand_in_streams.Memory()
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})

    def tolist(self) -> Any:
        waited()
        return self.detach().host.tolist()

    def record_stream(self, stream: Any) -> None:
        self.memory.kept_for.add(getattr(stream, "name", stand_in_streams.COMPUTE.name))  # torch has its own class

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else self, spec)

    @property
    def data(self) -> torch.Tensor:  # torch's own would lose `host`
        return self.detach()

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, new)
        detached = new.detach()
        self.host, self.memory = detached.host, detached.memory


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator on the hosts' data, refused where CUDA refuses it."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_device = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
    name = function._schema.name
    refuse_mixed(name, on_device, [leaf for leaf in leaves if not isinstance(leaf, DeviceTensor)])
    if (on_device and (name in SYNCHRONISES or selects(name, args))) or (name in MOVES and blocks(args, kwargs)):
        waited()
    target = kwargs.get("device")
    if target is not None:
        kwargs = {**kwargs, "device": "cpu"}
        device = indexed(torch.device(target))
    else:
        device = on_device[0].device if on_device else torch.device("cpu")
    if device.type == "acc" and "pin_memory" in kwargs:
        kwargs = {**kwargs, "pin_memory": False}
    own = {id(leaf.host): leaf for leaf in on_device}
    parts = {leaf.host.untyped_storage().data_ptr(): leaf.memory for leaf in on_device}
    found = function(*pytree.tree_map(on_host, args), **pytree.tree_map(on_host, kwargs))

    def back(value: Any) -> Any:
        if id(value) in own:
            return own[id(value)]  # in place
        if not isinstance(value, torch.Tensor) or device.type != "acc":
            return value
        return DeviceTensor(value, device, parts.get(value.untyped_storage().data_ptr()))

    made = pytree.tree_map(back, found)
    if not function.is_view:
        queue(function, args, kwargs, made)
    return made


def queue(function: Any, args: Any, kwargs: dict[str, Any], made: Any) -> None:
    """Tell the current stream of an operator: what it reads, and what it writes."""
    name = function._schema.name
    written = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, DeviceTensor)]
    for argument, value in [*zip(function._schema.arguments, args, strict=False), *_named(function, kwargs)]:
        changed = argument.alias_info is not None and argument.alias_info.is_write
        leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, DeviceTensor)]
        written += leaves if changed else []
        for leaf in leaves if not changed else []:
            leaf.memory.use(name, writes=False)
    for leaf in written:
        leaf.memory.use(name, writes=True)
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)]
    if written or any(isinstance(leaf, DeviceTensor) for leaf in tensors):
        moves = name in MOVES and not all(isinstance(leaf, DeviceTensor) for leaf in tensors)
        stand_in_streams.work(("copies in" if written else "copies out") if moves else "computes")


def _named(function: Any, kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(argument, kwargs[argument.name]) for argument in function._schema.arguments if argument.name in kwargs]


def blocks(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a copy makes the host wait for the device, as torch's do between host and device without
    `non_blocking`."""
    kinds = {leaf.device.type for leaf in args if isinstance(leaf, torch.Tensor)}
    if kwargs.get("device") is not None:
        kinds.add(torch.device(kwargs["device"]).type)
    waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
    return len(kinds) > 1 and waits


def selects(name: str, args: Any) -> bool:
    """Whether an indexing takes the entries where a mask is true: the host must know how many they are."""
    leaves = pytree.tree_leaves(args[1:2]) if name in ("aten::index", "aten::index_put_") else []
    return any(leaf.dtype in (torch.bool, torch.uint8) for leaf in leaves if isinstance(leaf, torch.Tensor))


def waited() -> None:
    """Count a wait for the device, under whose code makes it: the innermost of ours, DeepSpeed's and the tests'."""
    stand_in_streams.host_waits()
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename.endswith(STAND_IN):
        frame = frame.f_back
    while frame is not None:
        for owner in ("diht_k8s", "deepspeed", "tests"):
            _, found, file = frame.f_code.co_filename.partition(f"/{owner}/")
            if found:
                synchronisations[owner] += 1
                places[f"{owner}/{file}:{frame.f_lineno}"] += 1
                return
        frame = frame.f_back


def refuse_mixed(name: str, on_device: list[DeviceTensor], on_host: list[torch.Tensor]) -> None:
    devices = {tensor.device for tensor in on_device}
    strict = "_fused_" in name or "_foreach_" in name
    if not devices or name in MOVES:
        return
    if len(devices) > 1 or any(tensor.ndim or strict for tensor in on_host):
        where = sorted(map(str, devices)) + ["cpu"] * bool(on_host)
        raise RuntimeError(f"{name}: expected all tensors on one device, found {where}")


def on_host(value: Any) -> Any:
    return value.host if isinstance(value, DeviceTensor) else value


def indexed(device: torch.device) -> torch.device:
    return torch.device("acc", module.current_device()) if device.type == "acc" and device.index is None else device


class Strict(TorchDispatchMode):
    """While it lasts, factories make tensors on `acc` and every operator is checked."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class Guard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


class NoSplitting:
    supports_splitting = False


class Done(dist.Work):
    """A collective that has ended."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._future: Any = torch.futures.Future()
        self._future.set_result(result)

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> Any:
        return self._future


class StrictGroup(dist.ProcessGroup):
    """Collectives of device tensors by gloo on their data; as NCCL's group it belongs to one device."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self.own = torch.device("acc", int(os.environ["LOCAL_RANK"]))
        if indexed(torch.device("acc")) != self.own:
            raise RuntimeError(f"the group begins on {indexed(torch.device('acc'))}, the rank's device is {self.own}")
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout=timeout)

    def getBackendName(self) -> str:  # noqa: N802  # torch's name
        return "strict"

    def _get_backend(self, device: torch.device) -> Any:
        return NoSplitting()

    def _checked(self, tensors: Any) -> Any:
        for tensor in pytree.tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor) and tensor.device != self.own:
                raise RuntimeError(f"collective on {tensor.device}, the rank's device is {self.own}")
        return pytree.tree_map(on_host, tensors)

    def _work(self, call: Callable[..., Any], tensors: Any, *rest: Any) -> Any:
        hosts = self._checked(tensors)
        stand_in_streams.work("collective")
        with torch.utils._python_dispatch._disable_current_modes():
            call(*hosts, *rest).wait()
        return Done(tensors[0])

    def allreduce(self, tensors: Any, options: Any = None) -> Any:
        return self._work(self.gloo.allreduce, (tensors,), options or dist.AllreduceOptions())

    def broadcast(self, tensors: Any, options: Any = None) -> Any:
        return self._work(self.gloo.broadcast, (tensors,), options or dist.BroadcastOptions())

    def allgather(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        return self._work(self.gloo.allgather, (outputs, inputs), options or dist.AllgatherOptions())

    def _allgather_base(self, output: Any, given: Any, options: Any = None) -> Any:
        return self._work(self.gloo._allgather_base, (output, given), options or dist.AllgatherOptions())

    def _reduce_scatter_base(self, output: Any, given: Any, options: Any = None) -> Any:
        return self._work(self.gloo._reduce_scatter_base, (output, given), options or dist.ReduceScatterOptions())

    def reduce(self, tensors: Any, options: Any = None) -> Any:
        return self._work(self.gloo.reduce, (tensors,), options or dist.ReduceOptions())

    all_gather_single, reduce_scatter_single = _allgather_base, _reduce_scatter_base  # names since torch 2.13

    def allgather_into_tensor_coalesced(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        for output, given in zip(outputs, inputs, strict=True):
            work = self._allgather_base(output, given, options)
        return work

    def reduce_scatter_tensor_coalesced(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        for output, given in zip(outputs, inputs, strict=True):
            work = self._reduce_scatter_base(output, given, options)
        return work

    def barrier(self, opts: Any = None) -> Any:
        if indexed(torch.device("acc")) != self.own:
            raise RuntimeError(f"barrier from {indexed(torch.device('acc'))}, the rank's device is {self.own}")
        return self.gloo.barrier()


def install() -> None:
    """Register device, operators and the process group."""
    _setup_privateuseone_for_python_backend("acc", module, device_guard=Guard())

    def empty_strided(
        size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
    ) -> torch.Tensor:
        return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype), indexed(torch.device(device)))

    def empty(
        size: Any,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        pin_memory: Any = None,
        memory_format: Any = None,
    ) -> torch.Tensor:
        return DeviceTensor(torch.empty(size, dtype=dtype), indexed(torch.device(device)))

    def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if source.device.type != target.device.type and not non_blocking:
            waited()
        on_host(target).copy_(on_host(source))
        for tensor in (source, target):
            if isinstance(tensor, DeviceTensor):
                tensor.memory.use("copy", writes=tensor is target)
        stand_in_streams.work("copies in" if isinstance(target, DeviceTensor) else "copies out")
        return target

    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    dist.Backend.register_backend("strict", StrictGroup, devices=["acc"])
