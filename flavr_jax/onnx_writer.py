# SPDX-License-Identifier: Apache-2.0
"""A JAX function as an ONNX model, for the operations that the network uses.

The function is traced, and each equation of its jaxpr becomes ONNX nodes. What depends on constants
alone, such as the preparation of weights, is computed here. jax2onnx, the converter that is
maintained, does not take the network with jax 0.12 (version 0.17.1, November 2026).
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

import jax
import numpy as np

from flavr_jax.extras import install_command

__all__ = ["model_of"]

OPSET, IR_VERSION = 18, 9
"""Versions that onnxruntime reads since 1.14 (February 2023)."""

Value: TypeAlias = "np.ndarray | str"
"""A constant, or the name of a tensor that is computed."""

_INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
            "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # fmt: skip
_ELEMENTWISE = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "floor": "Floor",
    "tanh": "Tanh", "logistic": "Sigmoid", "stop_gradient": "Identity", "copy": "Identity",
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal",
    "and": "And", "or": "Or", "not": "Not",
}  # fmt: skip


def model_of(function: Callable[[Any], Any], shape: tuple[int, ...], names: tuple[str, str]) -> Any:
    """Return the ONNX model of a function from one float32 array to another.

    Args:
        function: traceable by JAX.
        shape: of its argument.
        names: of the model's input and output.

    Raises:
        ValueError: the function uses an operation that has no rule here.
        ModuleNotFoundError: onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"exporting to ONNX needs onnx, which is not installed: {install_command('onnx')}."
        ) from error
    argument = jax.ShapeDtypeStruct(shape, np.float32)
    closed = jax.make_jaxpr(function)(argument)
    graph = _Graph(onnx)
    (result,) = graph.run(closed.jaxpr, [np.asarray(const) for const in closed.consts], [names[0]])
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.name(result)], [names[1]]))
    float32 = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        graph.nodes,
        "flavr_jax",
        [onnx.helper.make_tensor_value_info(names[0], float32, shape)],
        [
            onnx.helper.make_tensor_value_info(
                names[1], float32, jax.eval_shape(function, argument).shape
            )
        ],
        graph.constants,
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclasses.dataclass
class _Graph:
    """An ONNX graph that grows.

    Attributes:
        onnx: the package.
        nodes: in an order in which they can be computed.
        constants: the initializers.
    """

    onnx: Any
    nodes: list[Any] = dataclasses.field(default_factory=list)
    constants: list[Any] = dataclasses.field(default_factory=list)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = dataclasses.field(default_factory=dict)

    def run(self, jaxpr: Any, consts: Sequence[Value], values: Sequence[Value]) -> list[Value]:
        """Add a jaxpr's equations, and return its results."""
        known = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, values))

        def read(atom: Any) -> Value:
            return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, values: list[Value]) -> Sequence[Value]:
        """Compute an equation of constants, or add its nodes; return the results."""
        kind, params = equation.primitive.name, equation.params
        if kind in _INLINED:
            inner = params[_INLINED[kind]]
            return self.run(inner.jaxpr, [np.asarray(const) for const in inner.consts], values)
        if not any(isinstance(value, str) for value in values):
            found = equation.primitive.bind(*values, **params)
            found = found if equation.primitive.multiple_results else [found]
            return [np.asarray(each) for each in found]
        if kind in _ELEMENTWISE:
            return [self.node(_ELEMENTWISE[kind], *values)]
        if kind not in _RULES:
            raise ValueError(
                f"the operation {kind} of JAX has no rule for ONNX. Export StableHLO instead."
            )
        shapes = [tuple(atom.aval.shape) for atom in equation.invars]
        return _RULES[kind](self, params, shapes, equation.outvars[0].aval, *values)

    def node(self, operation: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node, and return the name of its output, or a list of names if there are more."""
        names = [f"t{len(self.nodes)}_{number}" for number in range(outputs)]
        arguments = [self.name(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(operation, arguments, names, **attributes))
        return names[0] if outputs == 1 else names

    def name(self, value: Value) -> str:
        """Return the name of a value; a constant is stored once."""
        if isinstance(value, str):
            return value
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self.constants)}"
            tensor = self.onnx.numpy_helper.from_array(np.array(value), self._known[key])
            self.constants.append(tensor)
        return self._known[key]

    def transposed(self, value: Value, order: Sequence[int]) -> Value:
        """Return a value with its axes in another order."""
        if isinstance(value, str):
            return self.node("Transpose", value, perm=list(order))
        return np.transpose(value, order)

    def reshaped(self, value: Value, shape: Iterable[int]) -> Value:
        """Return a value in another shape."""
        if isinstance(value, str):
            return self.node("Reshape", value, _integers(shape))
        return np.reshape(value, tuple(shape))

    def sliced(
        self, value: Value, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]
    ) -> str:
        """Return a part of a tensor; there is a number for each axis."""
        axes = range(len(starts))
        return self.node("Slice", value, *map(_integers, (starts, ends, axes, steps)))


def _integers(numbers: Iterable[SupportsIndex]) -> np.ndarray:
    return np.array([operator.index(number) for number in numbers], np.int64)


# Every rule takes the graph, the equation's parameters, the shapes of its arguments, what is known
# of its first result, and the arguments; it returns the results.
_Shapes: TypeAlias = list[tuple[int, ...]]
_Parameters: TypeAlias = dict[str, Any]


def _convolution(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value, weights: Value
) -> list[Value]:
    layout = params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise ValueError("a transposed convolution or one of groups of samples has no rule.")
    before, after = zip(*params["padding"])
    made = graph.node(
        "Conv",
        graph.transposed(x, layout.lhs_spec),  # channels first, as ONNX wants them
        graph.transposed(weights, layout.rhs_spec),
        pads=[int(number) for number in (*before, *after)],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return [graph.transposed(made, np.argsort(layout.out_spec).tolist())]


def _product(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value, y: Value
) -> list[Value]:
    (of_x, of_y), (with_x, with_y) = params["dimension_numbers"]
    if tuple(of_x) == (len(shapes[0]) - 1,) and tuple(of_y) == (0,) and len(shapes[1]) == 2:
        return [graph.node("MatMul", x, y)]  # the last axis with a matrix
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in shapes[0]]
    second = [next(letters) for _ in shapes[1]]
    for mine, other in zip((*of_x, *with_x), (*of_y, *with_y)):
        second[other] = first[mine]
    free = [first[n] for n in range(len(first)) if n not in (*of_x, *with_x)]
    free += [second[n] for n in range(len(second)) if n not in (*of_y, *with_y)]
    result = "".join([*(first[n] for n in with_x), *free])
    return [graph.node("Einsum", x, y, equation=f"{''.join(first)},{''.join(second)}->{result}")]


def _broadcast(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value
) -> list[Value]:
    shape = [1] * len(params["shape"])
    for axis, length in zip(params["broadcast_dimensions"], shapes[0]):
        shape[axis] = length
    return [graph.node("Expand", graph.reshaped(x, shape), _integers(params["shape"]))]


def _part(graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value) -> list[Value]:
    starts, ends = params["start_indices"], params["limit_indices"]
    return [graph.sliced(x, starts, ends, params["strides"] or [1] * len(starts))]


def _dynamic_part(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value, *starts: Value
) -> list[Value]:
    if any(isinstance(start, str) for start in starts):
        raise ValueError("a slice whose place is computed has no rule.")
    sizes = params["slice_sizes"]
    first = [
        min(max(int(start), 0), length - size)
        for start, length, size in zip(starts, shapes[0], sizes)
    ]
    ends = [start + size for start, size in zip(first, sizes)]
    return [graph.sliced(x, first, ends, [1] * len(first))]


def _reversed(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value
) -> list[Value]:
    back = [axis in params["dimensions"] for axis in range(len(shapes[0]))]
    beyond = np.iinfo(np.int64).min  # before the first element, which −1 would not be
    ends = [beyond if turned else length for turned, length in zip(back, shapes[0])]
    return [graph.sliced(x, [-1 if b else 0 for b in back], ends, [-1 if b else 1 for b in back])]


def _padded(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value, fill: Value
) -> list[Value]:
    before, after, inside = zip(*params["padding_config"])
    if any(inside) or min(*before, *after) < 0:
        raise ValueError("padding inside or of negative width has no rule.")
    return [graph.node("Pad", x, _integers((*before, *after)), fill)]


def _looked_up(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value, places: Value
) -> list[Value]:
    numbers = params["dimension_numbers"]
    if len(shapes[0]) != 1 or numbers.offset_dims or numbers.collapsed_slice_dims != (0,):
        raise ValueError("a look-up other than of single elements of a list has no rule.")
    return [graph.node("Gather", x, graph.reshaped(places, shapes[1][:-1]))]


def _joined(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, *parts: Value
) -> list[Value]:
    filled = [part for part, shape in zip(parts, shapes) if 0 not in shape]
    return [graph.node("Concat", *filled, axis=params["dimension"])]


def _stacked(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, *parts: Value
) -> list[Value]:
    axis = params["axis"]
    shape = [*shapes[0][:axis], 1, *shapes[0][axis:]]
    return [graph.node("Concat", *(graph.reshaped(part, shape) for part in parts), axis=axis)]


def _unstacked(
    graph: _Graph, params: _Parameters, shapes: _Shapes, out: Any, x: Value
) -> list[Value]:
    axis, count = params["axis"], shapes[0][params["axis"]]
    parts = graph.node("Split", x, axis=axis, num_outputs=count, outputs=count)
    return [graph.reshaped(part, out.shape) for part in ([parts] if count == 1 else parts)]


_RULES: dict[str, Callable[..., Sequence[Value]]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "broadcast_in_dim": _broadcast,
    "slice": _part,
    "dynamic_slice": _dynamic_part,
    "rev": _reversed,
    "pad": _padded,
    "gather": _looked_up,
    "concatenate": _joined,
    "stack": _stacked,
    "unstack": _unstacked,
    "optimization_barrier": lambda graph, params, shapes, out, *values: values,
    "transpose": lambda graph, params, _, out, x: [graph.transposed(x, params["permutation"])],
    "select_n": lambda graph, _, shapes, out, which, no, yes: [graph.node("Where", which, yes, no)],
    "convert_element_type": lambda graph, params, _, out, x: [
        graph.node("Cast", x, to=graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype)))
    ],
    **{
        f"reduce_{name.lower()}": lambda graph, params, _, out, x, name=name: [
            graph.node(f"Reduce{name}", x, _integers(params["axes"]), keepdims=0)
        ]
        for name in ("Sum", "Max", "Min")
    },
    **{
        name: lambda graph, params, _, out, x: [graph.reshaped(x, out.shape)]
        for name in ("reshape", "squeeze", "expand_dims")
    },
}
