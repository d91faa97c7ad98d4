"""Nested plain data as bytes and back, exactly: what a checkpoint holds.

None, booleans, numbers, text, lists, mappings with text keys, NumPy arrays and tensors; nothing
else is written, and nothing read can be anything else. The bytes are the length of a JSON text (8
bytes, little-endian), the text, and the arrays' own bytes, to which the text refers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gflow.errors import StoreError

HEAD = 8
"""Bytes that tell the length of the text."""
ALIGNMENT = 64
"""Bytes to whose multiples every array is moved."""
NUMPY = ("bool", "int64", "float64", "float32", "uint8", "int32")
TORCH = ("bool", "int64", "float64", "float32", "complex128", "complex64", "uint8", "int32")


def pack(value: Any) -> np.ndarray:
    """Plain data as an array of uint8.

    Raises
    ------
    TypeError
        If something in it is not plain.
    """
    parts: list[bytes] = []
    text = json.dumps(_described(value, _Writer(parts))).encode()
    return np.frombuffer(len(text).to_bytes(HEAD, "little") + text + b"".join(parts), np.uint8)


def unpack(data: np.ndarray, device: torch.device | str = "cpu") -> Any:
    """What :func:`pack` was given; tensors are put on the device.

    Raises
    ------
    StoreError
        If the bytes are not those of :func:`pack`.
    """
    raw = np.ascontiguousarray(data, dtype=np.uint8).tobytes()
    try:
        end = HEAD + int.from_bytes(raw[:HEAD], "little")
        if end > len(raw):
            raise ValueError("the text is cut off")
        return _restored(json.loads(raw[HEAD:end]), memoryview(raw)[end:], device)
    except (ValueError, KeyError, TypeError, RecursionError, RuntimeError, OverflowError) as error:
        raise StoreError(f"The checkpoint cannot be read: {error}.") from None


class _Writer:
    """Appends arrays, and tells where each begins."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts, self._size = parts, 0

    def __call__(self, data: bytes) -> int:
        begin = self._size
        padding = -len(data) % ALIGNMENT
        self._parts += [data, bytes(padding)]
        self._size += len(data) + padding
        return begin


def _described(value: Any, write: _Writer) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return _described(value.item(), write)
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return [_described(one, write) for one in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a mapping's keys must be text")
        return {"mapping": {key: _described(one, write) for key, one in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.name in NUMPY:
        # Orders other than C's do not matter to NumPy's results.
        told = {"dtype": value.dtype.name, "shape": list(value.shape)}
        return {"array": told | {"at": write(np.ascontiguousarray(value).tobytes())}}
    if isinstance(value, Tensor):
        return {"tensor": _described_tensor(value, write)}
    raise TypeError(f"{type(value).__name__} is no plain data")


def _described_tensor(value: Tensor, write: _Writer) -> dict[str, Any]:
    """Its bytes in memory's order, and the order: products may round differently in another."""
    strides = value.stride()
    order = sorted(range(value.ndim), key=lambda dim: (-strides[dim], dim))
    dense = value.detach().permute(order).contiguous().cpu()
    data = dense.resolve_conj().reshape(-1).view(torch.uint8).numpy().tobytes()
    dtype = str(value.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(dense.shape), "order": order, "at": write(data)}


def _restored(value: Any, data: memoryview, device: torch.device | str) -> Any:
    if isinstance(value, list):
        return [_restored(one, data, device) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, told),) = value.items()
    if kind == "mapping":
        return {key: _restored(one, data, device) for key, one in told.items()}
    if kind == "array":
        return _array(told, data, NUMPY).copy()
    if kind == "tensor":
        return _tensor(told, data).to(device)
    raise ValueError(f"{kind!r} is unknown")


def _tensor(told: Mapping[str, Any], data: memoryview) -> Tensor:
    flat = _array({**told, "shape": [-1]}, data, TORCH, math.prod(told["shape"]))
    dense = torch.from_numpy(flat.copy()).reshape(told["shape"])
    if sorted(told["order"]) != list(range(dense.ndim)):
        raise ValueError("a tensor's order is no permutation")
    back = np.argsort(told["order"]).tolist()
    return dense.permute(back)


def _array(
    told: Mapping[str, Any], data: memoryview, allowed: tuple[str, ...], count: int | None = None
) -> np.ndarray:
    name, shape = told["dtype"], told["shape"]
    if name not in allowed or any(not isinstance(n, int) for n in shape):
        raise ValueError("an array's dtype or shape is none")
    dtype = np.dtype(name)
    size = math.prod(shape) if count is None else count
    begin = int(told["at"])
    part = data[begin : begin + size * dtype.itemsize]
    if begin < 0 or size < 0 or len(part) != size * dtype.itemsize:
        raise ValueError("an array is cut off")
    return np.frombuffer(part, dtype).reshape(shape)
