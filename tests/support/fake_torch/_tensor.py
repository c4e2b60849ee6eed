"""Matrices of numbers with torch's names for the few things a verification does to them.

Numbers are computed when they are looked at: a verification multiplies twice and finds the difference to be
nothing, as it does with the same computation. Each of the suite's thousands of workers would wait 60 ms else.
"""

from __future__ import annotations

import sys
from array import array
from functools import cache
from operator import add, mod, mul, sub

from ._behaviour import BEHAVIOUR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    Values: TypeAlias = list[Any] | Callable[[], list[Any]]

float32 = "torch.float32"
float64 = "torch.float64"
int64 = "torch.int64"


class device:  # noqa: N801  torch's own name
    """A device by its name ("cuda", "cuda:1")."""

    def __init__(self, name: object, index: int | None = None) -> None:
        kind, _, number = str(name).partition(":")
        self.type = kind
        self.index = int(number) if number else index

    def __str__(self) -> str:
        """The name torch would print."""
        return self.type if self.index is None else f"{self.type}:{self.index}"


def index_of(name: object) -> int:
    """A device's number, from a number or a name; the first one where it says none."""
    if isinstance(name, int):
        return name
    return 0 if name is None else device(name).index or 0


def _check_device(kind: str) -> None:
    present = {
        "cpu": True,
        "meta": True,
        "cuda": bool(BEHAVIOUR.cuda_devices),
        "xpu": bool(BEHAVIOUR.xpu_devices),
        "mps": BEHAVIOUR.mps,
    }
    if not present.get(kind, False):
        raise RuntimeError(f"Torch not compiled with {kind} enabled, or no device of that kind")


class Tensor:
    """Numbers in rows: `shape` has one or two lengths, or none for a single number."""

    def __init__(
        self, values: Values, shape: tuple[int, ...], dtype: object = float32, where: object = "cpu"
    ) -> None:
        self.source = values
        self.shape = shape
        self.dtype = dtype
        self.device = where if isinstance(where, device) else device(where or "cpu")
        _check_device(self.device.type)

    @property
    def values(self) -> list[Any]:
        """The numbers, row after row."""
        return self.source() if callable(self.source) else self.source

    @property
    def length(self) -> int:
        """How many numbers there are."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    def to(self, *targets: object, device: object = None, dtype: object = None, **_: object) -> Tensor:
        """The same numbers on another device, or of another type."""
        for target in targets:
            if str(target).startswith("torch."):
                dtype = target
            else:
                device = target
        return Tensor(self.source, self.shape, dtype or self.dtype, device or self.device)

    def cpu(self) -> Tensor:
        """The same numbers on the processor."""
        return self.to("cpu")

    def double(self) -> Tensor:
        """The same numbers, in torch 64 bits wide."""
        return self.to(float64)

    def float(self) -> Tensor:
        """The same numbers, in torch 32 bits wide."""
        return self.to(float32)

    def reshape(self, *shape: int) -> Tensor:
        """The same numbers in other rows; one length may be -1."""
        known = 1
        for length in shape:
            known *= length if length != -1 else 1
        lengths = tuple(self.length // known if length == -1 else length for length in shape)
        return Tensor(self.source, lengths, self.dtype, self.device)

    view = reshape

    def t(self) -> Tensor:
        """Rows become columns."""
        rows, columns = self.shape
        turned = [self.values[row * columns + column] for column in range(columns) for row in range(rows)]
        return Tensor(turned, (columns, rows), self.dtype, self.device)

    @property
    def T(self) -> Tensor:  # noqa: N802  torch's own name
        """Rows become columns."""
        return self.t()

    def __matmul__(self, other: Tensor) -> Tensor:
        """The matrix product, wrong or failing where the behaviour file says so."""
        kind = self.device.type
        if kind in BEHAVIOUR.compute_errors:
            raise RuntimeError(BEHAVIOUR.compute_errors[kind])
        if kind != other.device.type:
            raise RuntimeError("Expected all tensors to be on the same device")
        product = _product(self, other)
        if kind == "cpu" or not BEHAVIOUR.compute_offset:
            return Tensor(product, (self.shape[0], other.shape[1]), self.dtype, self.device)
        values = [value + BEHAVIOUR.compute_offset for value in product()]
        return Tensor(values, (self.shape[0], other.shape[1]), self.dtype, self.device)

    matmul = mm = __matmul__

    def __add__(self, other: object) -> Tensor:
        """Element by element."""
        return self._with(add, other)

    def __sub__(self, other: object) -> Tensor:
        """Element by element."""
        return self._with(sub, other)

    def __mul__(self, other: object) -> Tensor:
        """Element by element."""
        return self._with(mul, other)

    def __mod__(self, other: object) -> Tensor:
        """Element by element."""
        return self._with(mod, other)

    remainder = __mod__

    def abs(self) -> Tensor:
        """Each number without its sign."""
        return Tensor(list(map(abs, self.values)), self.shape, self.dtype, self.device)

    def max(self) -> Tensor:
        """The largest number."""
        return Tensor([max(self.values)], (), self.dtype, self.device)

    def sum(self) -> Tensor:
        """All numbers together."""
        return Tensor([sum(self.values)], (), self.dtype, self.device)

    def item(self) -> Any:
        """The only number."""
        (value,) = self.values
        return value

    def tolist(self) -> Any:
        """The numbers as lists."""
        if len(self.shape) < 2:
            return list(self.values) if self.shape else self.item()
        columns = self.shape[1]
        return [self.values[start : start + columns] for start in range(0, len(self.values), columns)]

    def __float__(self) -> Any:
        """The only number, as a float."""
        return self.item() * 1.0

    def _with(self, operator: Callable[[Any, Any], Any], other: object) -> Tensor:
        if operator is sub and isinstance(other, Tensor) and other.source is self.source:
            return Tensor([0] * self.length, self.shape, self.dtype, self.device)

        @cache
        def values() -> list[Any]:
            others = other.values if isinstance(other, Tensor) else [other] * self.length
            return list(map(operator, self.values, others))

        return Tensor(values, self.shape, self.dtype, self.device)


_DIGIT_BYTES = 4
_SMALL = 127
_MOST_SUMMANDS = 2**16
"""So many products of two small numbers add up to less than half of what a digit holds."""

_PRODUCTS: list[tuple[Values, Values, Callable[[], list[Any]]]] = []


def _product(left: Tensor, right: Tensor) -> Callable[[], list[Any]]:
    """The same computation for the same two matrices: a verification asks for it on two devices."""
    for left_source, right_source, known in _PRODUCTS:
        if left_source is left.source and right_source is right.source:
            return known
    (rows, inner), columns = left.shape, right.shape[1]

    @cache
    def product() -> list[Any]:
        lines = [left.values[row * inner : (row + 1) * inner] for row in range(rows)]
        if _is_small(left.values) and _is_small(right.values) and inner <= _MOST_SUMMANDS:
            return _whole_product(lines, right.values, columns)
        turned = [right.values[column::columns] for column in range(columns)]
        return [sum(map(mul, line, column)) for line in lines for column in turned]

    _PRODUCTS.append((left.source, right.source, product))
    return product


def _is_small(values: list[Any]) -> bool:
    return all(type(value) is int for value in values) and -_SMALL <= min(values) <= max(values) <= _SMALL


def _whole_product(lines: list[list[Any]], right: list[Any], columns: int) -> list[Any]:
    """The product of small whole numbers: each row of `right` is one number whose digits are its entries.

    Ten times as fast as a sum for every entry.
    """
    offset = 1 << (8 * _DIGIT_BYTES - 1)
    offsets = sum(offset << (8 * _DIGIT_BYTES * column) for column in range(columns))
    packed = []
    for start in range(0, len(right), columns):
        digits = array("I", [value + offset for value in right[start : start + columns]])
        packed.append(int.from_bytes(digits.tobytes(), sys.byteorder) - offsets)
    product = []
    for line in lines:
        total = sum(map(mul, line, packed)) + offsets
        digits = array("I", total.to_bytes(_DIGIT_BYTES * columns, sys.byteorder))
        product += [digit - offset for digit in digits]
    return product


def tensor(data: Any, *, dtype: object = float32, device: object = "cpu") -> Tensor:
    """A number, a list or a list of lists as a tensor."""
    if not isinstance(data, list | tuple):
        return Tensor([data], (), dtype, device)
    if data and isinstance(data[0], list | tuple):
        return Tensor([value for row in data for value in row], (len(data), len(data[0])), dtype, device)
    return Tensor(list(data), (len(data),), dtype, device)


def full(size: Iterable[int], fill_value: Any, *, dtype: object = float32, device: object = "cpu") -> Tensor:
    """One number everywhere."""
    shape = tuple(size)
    count = 1
    for length in shape:
        count *= length
    return Tensor([fill_value] * count, shape, dtype, device)


def ones(*size: int, dtype: object = float32, device: object = "cpu") -> Tensor:
    """Ones everywhere."""
    return full(size, 1.0, dtype=dtype, device=device)


def zeros(*size: int, dtype: object = float32, device: object = "cpu") -> Tensor:
    """Zeros everywhere."""
    return full(size, 0.0, dtype=dtype, device=device)


def eye(length: int, *, dtype: object = float32, device: object = "cpu") -> Tensor:
    """Ones on the diagonal, zeros elsewhere."""
    values = [1.0 if row == column else 0.0 for row in range(length) for column in range(length)]
    return Tensor(values, (length, length), dtype, device)


def arange(*bounds: int, dtype: object = int64, device: object = "cpu") -> Tensor:
    """Whole numbers in order."""
    values = list(range(*bounds))
    return Tensor(values, (len(values),), dtype, device)
