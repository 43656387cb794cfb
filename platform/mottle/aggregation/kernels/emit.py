"""Prints a column program as C++: one loop over vectors of columns, every operation once, every value in a register or near one."""

from functools import lru_cache

from mottle.aggregation.kernels.programs import Program, Step

_BINARY = {"add": "{a} + {b}", "sub": "{a} - {b}", "mul": "{a} * {b}", "div": "{a} / {b}"}
_CALLS = {"min": "smaller({a}, {b})", "max": "larger({a}, {b})"}
_MASKS = {"above": "{a} > {b}", "equal": "{a} == {b}", "both": "{a} & {b}"}

_AHEAD = 64
"""Columns that are fetched in advance, into the second cache: hardware loses track of so many rows at once."""

_TEMPLATE = """// A column program, printed by mottle.aggregation.kernels.emit.
#include "vectors.h"

typedef {ctype} T;
typedef Vec<T> V;
typedef Mask<T> M;
constexpr int64_t AHEAD = {ahead};

static inline void columns_at(const T* const* rows, int64_t at, T* out, const T* weights, V& probe, V& watch) {{
{body}
}}

extern "C" int columns(const T* const* rows, int64_t start, int64_t stop, T* out, const T* weights) {{
    V probe{{}}, watch{{}};
    int64_t at = start;
    for (; at + LANES<T> <= stop; at += LANES<T>) columns_at(rows, at, out + (at - start), weights, probe, watch);
    if (at < stop) {{
        T padded[{num_rows}][LANES<T>] = {{}}, last[LANES<T>];
        const T* tail[{num_rows}];
        for (int row = 0; row < {num_rows}; ++row) {{
            std::memcpy(padded[row], rows[row] + at, (stop - at) * sizeof(T));
            tail[row] = padded[row];
        }}
        columns_at(tail, 0, last, weights, probe, watch);
        std::memcpy(out + (at - start), last, (stop - at) * sizeof(T));
    }}
    return (any_nonzero_or_nan<T>(probe) ? 1 : 0) | (any_nonzero_or_nan<T>(watch) ? 2 : 0);
}}
"""


@lru_cache(maxsize=256)
def cpp_source(program: Program, ctype: str) -> str:
    """Source of a function `columns(rows, start, stop, out, weights)`, see `ColumnsFn` in vectors.h.

    Args:
        program: one that is not presorted.
        ctype: "float" or "double".
    """
    assert not program.presorted, "a program on sorted rows needs a sort that only the interpreter has"
    lines = [
        f"const V r{row} = load(rows[{row}] + at); look(probe, r{row}); __builtin_prefetch(rows[{row}] + at + AHEAD, 0, 2);"
        for row in range(program.num_rows)
    ]
    lines += [f"const V r{register} = fill<T>(weights[{row}]);" for row, register in enumerate(program.weights)]
    lines += [f"const V r{register} = fill<T>({_literal(value, ctype)});" for register, value in program.constants]
    lines += [_line(step) for step in program.steps]
    lines += [f"look(watch, r{register});" for register in dict.fromkeys(program.watched)]
    lines.append(f"store(out, r{program.result});")
    body = "\n".join("    " + line for line in lines)
    return _TEMPLATE.format(ctype=ctype, ahead=_AHEAD, body=body, num_rows=program.num_rows)


def _literal(value: float, ctype: str) -> str:
    return f"{value!r}{'f' if ctype == 'float' else ''}"


def _line(step: Step) -> str:
    names = [f"r{operand}" for operand in step.operands]
    if step.kind == "pick":
        return f"const V r{step.target} = {names[0]} ? {names[1]} : {names[2]};"
    form = {**_BINARY, **_CALLS, **_MASKS}[step.kind].format(a=names[0], b=names[1])
    return f"const {'M' if step.kind in _MASKS else 'V'} r{step.target} = {form};"
