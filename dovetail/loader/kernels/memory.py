"""What compiled loops read and write: numbers at addresses, in the types of models.

Numbers are computed as float32, whatever they are kept as. numba has no bfloat16, and no float16 on
a CPU; here a pointer to ``uint16`` means bfloat16, and one to ``int16`` float16.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Numbers: TypeAlias = Any
"""A pointer to numbers of one type."""

_WORD, _HALF = ir.IntType(32), ir.IntType(16)


def _pointer_to(name: str, element: Any) -> Any:
    def pointer(_typing: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(address), build

    # numba tells functions that were given one of these apart by its name, and by nothing else.
    pointer.__name__ = name
    return intrinsic(pointer)


integers = _pointer_to("integers", types.int64)
doubles = _pointer_to("doubles", types.float64)
flags = _pointer_to("flags", types.uint8)
float32s = _pointer_to("float32s", types.float32)
bfloat16s = _pointer_to("bfloat16s", types.uint16)
float16s = _pointer_to("float16s", types.int16)


@intrinsic
def read(_typing: Any, pointer: Any, index: Any) -> Any:
    """Return the number at an index as float32."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = builder.load(builder.gep(arguments[0], [arguments[1]]))
        if pointer.dtype == types.float32:
            return value
        if pointer.dtype == types.int16:
            return builder.fpext(builder.bitcast(value, ir.HalfType()), ir.FloatType())
        wide = builder.shl(builder.zext(value, _WORD), _WORD(16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(pointer, index), build


@intrinsic
def write(_typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Put a float32 down at an index, rounded to the nearest number there is, or to even."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place, value = builder.gep(arguments[0], [arguments[1]]), arguments[2]
        if pointer.dtype == types.int16:
            value = builder.bitcast(builder.fptrunc(value, ir.HalfType()), _HALF)
        elif pointer.dtype == types.uint16:
            value = _bfloat16(builder, value)
        builder.store(value, place)

    return types.void(pointer, index, value), build


def _bfloat16(builder: Any, value: Any) -> Any:
    word = builder.bitcast(value, _WORD)
    odd = builder.and_(builder.lshr(word, _WORD(16)), _WORD(1))
    rounded = builder.lshr(builder.add(builder.add(word, _WORD(0x7FFF)), odd), _WORD(16))
    # Rounding up could turn what is not a number into one.
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, _WORD(0x7FC0), rounded), _HALF)


def room_for(count: int, element: Any = types.float32) -> Any:
    """Return a function that makes room for so many numbers, until the function it is in ends."""

    @intrinsic
    def room(_typing: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, _arguments: Any) -> Any:
            kind = context.get_value_type(element)
            array = cgutils.alloca_once(builder, ir.ArrayType(kind, count))
            return builder.bitcast(array, context.get_value_type(signature.return_type))

        return types.CPointer(element)(), build

    return room


@intrinsic
def next_ticket(_typing: Any, counter: Any) -> Any:
    """Count one up at an address; return what was there. No two threads get the same."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), build


ROUNDER = 1.5 * 2**23
"""Added to a float32 of less than 2 ** 22, it leaves the nearest whole number in the last bits."""


@intrinsic
def power_of_two(_typing: Any, rounded: Any) -> Any:
    """Return ``2 ** n`` as float32, for ``n + ROUNDER``, where ``n`` is from -126 to 127."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = builder.add(builder.bitcast(arguments[0], _WORD), _WORD(127))
        return builder.bitcast(builder.shl(word, _WORD(23)), ir.FloatType())

    return types.float32(rounded), build
