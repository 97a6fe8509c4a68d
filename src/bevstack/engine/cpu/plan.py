"""A graph turned into steps: operators in their order, each with the bias, sum and Relu that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.engine.names import EngineMissing
from bevstack.engine.onnx_graph import prepared

from . import kernels
from .steps import CACHE, Array, Feed, Pair, Source, Steps, Team

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
}


class Unsupported(EngineMissing):
    """The graph has something that this engine does not do."""


def _itself(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: a view on a buffer or a constant (``array``), or a view on an input.

    ``array`` has the graph's shape and axes; memory is channels last wherever a convolution wrote it. ``scale`` and ``shift``
    (per channel) have still to be applied.
    """

    array: Array
    feed: str = ""
    view: Callable[[Array], Array] = _itself
    scale: Array | None = None
    shift: Array | None = None

    def of(self, feed: Feed) -> Array:
        return self.view(feed[self.feed]) if self.feed else self.array

    def seen(self, change: Callable[[Array], Array]) -> Value:
        """Another view; ``array`` of an input stands for its shape and strides."""
        before = self.view
        return replace(self, array=change(self.array), view=lambda a: change(before(a)))


class Plan:
    """Turns nodes into steps, one after the other."""

    def __init__(self, graph: bytes, team: Team) -> None:
        import onnx

        model = prepared(graph)
        self._attributes = onnx.helper.get_attribute_value
        self.team, self.steps = team, Steps(team)
        self.buffers = self.steps.buffers
        self.values: dict[str, Value] = {}
        self.inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self.metadata = {p.key: p.value for p in model.metadata_props}
        self.outputs = [v.name for v in model.graph.output]
        for tensor in model.graph.initializer:
            self.values[tensor.name] = Value(onnx.numpy_helper.to_array(tensor))
        for given in model.graph.input:
            kind = given.type.tensor_type
            shape = tuple(d.dim_value for d in kind.shape.dim)
            if 0 in shape or kind.elem_type not in _DTYPES:
                raise Unsupported(f"input {given.name} has no fixed shape or an unusual type")
            self.inputs[given.name] = shape, _DTYPES[kind.elem_type]
            self.values[given.name] = Value(np.empty(shape, _DTYPES[kind.elem_type]), given.name)
        self.nodes = list(model.graph.node)
        self.readers: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(number)
        self.roots: dict[str, str] = {}
        self._lower_all()
        self.buffers.scratch = [np.zeros(self.buffers.scratch_size, np.float32) for _ in range(team.threads)]

    # --- the order of things ------------------------------------------------------------------------------------------------

    def _lower_all(self) -> None:
        done: set[int] = set()
        handlers: dict[str, Callable[[Any, int], list[int]]] = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._gemm,
            "Add": self._add,
            "Relu": self._relu,
            "Resize": self._resize,
            "MaxPool": self._max_pool,
            "Concat": self._concat,
            "Cast": self._cast,
            "Sub": self._per_channel,
            "Mul": self._per_channel,
            "BatchNormalization": self._per_channel,
            "Transpose": self._view,
            "Reshape": self._view,
            "Gather": self._view,
            "Identity": self._view,
            "Flatten": self._view,
            "Squeeze": self._view,
            "Slice": self._view,
        }
        for number, node in enumerate(self.nodes):
            if number not in done:
                handler = handlers.get(node.op_type)
                if handler is None or node.domain not in ("", "ai.onnx"):
                    raise Unsupported(f"operator {node.op_type}")
                done.update(handler(node, number))
            self._release(number)

    def _release(self, number: int) -> None:
        """Gives back the buffers whose last reader has been lowered."""
        for name in list(self.buffers.owner):
            names = [n for n, root in self.roots.items() if root == name]
            last = max((r for n in names for r in self.readers.get(n, ())), default=-1)
            if last <= number and not set(names) & set(self.outputs):
                self.buffers.give_back(name)

    def _attribute(self, node: Any, name: str, default: Any = None) -> Any:
        return next((self._attributes(a) for a in node.attribute if a.name == name), default)

    def _only_reader(self, name: str) -> Any | None:
        """(number, node) of the one that alone reads a value which is no output."""
        readers = self.readers.get(name, [])
        return (readers[0], self.nodes[readers[0]]) if len(readers) == 1 and name not in self.outputs else None

    def _ending(self, name: str, shape: tuple[int, ...]) -> tuple[str, str, bool, list[int]]:
        """What can be done along with the step that makes ``name``, a map of ``shape``: (final name, name of what is added or
        "", Relu?, nodes)."""
        added, relu, done = "", False, []
        after = self._only_reader(name)
        if after is not None and after[1].op_type == "Add":
            other = next((i for i in after[1].input if i != name), name)
            known = self.values.get(other)
            if known is not None and other != name and known.scale is None and not known.feed and known.array.shape == shape:
                added, name, done = other, after[1].output[0], [after[0]]
                after = self._only_reader(name)
        if after is not None and after[1].op_type == "Relu":
            relu, name, done = True, after[1].output[0], [*done, after[0]]
        return name, added, relu, done

    def _made(self, name: str, array: Array) -> None:
        self.values[name] = Value(array)
        self.roots[name] = name

    # --- values --------------------------------------------------------------------------------------------------------------

    def _value(self, name: str) -> Value:
        return self.values[name]

    def _constant(self, name: str) -> Array:
        value = self.values.get(name)
        if value is None or value.feed or name in self.roots:
            raise Unsupported(f"{name} is not constant")
        return value.array

    def _map(self, name: str) -> Source:
        """A map (N, C, H, W) as (N, H, W, C), contiguous, everything applied."""
        value = self._value(name)
        if value.array.ndim != 4:
            raise Unsupported(f"{name} is no map")
        channels_last = value.seen(lambda a: a.transpose(0, 2, 3, 1))
        if value.scale is None and channels_last.array.flags.c_contiguous and channels_last.array.dtype == np.float32:
            return channels_last.of
        shape = channels_last.array.shape
        out = self.buffers.take(name + " laid out", shape)
        self.roots[name + " laid out"] = name + " laid out"
        self.readers[name + " laid out"] = self.readers[name]
        self._apply(channels_last, out, relu=False)
        self.values[name] = Value(out.transpose(0, 3, 1, 2))  # for whoever reads it next
        self.roots[name] = name + " laid out"
        return lambda _: out

    def _apply(self, value: Value, out: Array, relu: bool) -> None:
        """Step: channels-last ``value`` with its scale and shift into ``out``."""
        channels = out.shape[-1]
        scale = np.ones(channels, np.float32) if value.scale is None else value.scale
        shift = np.zeros(channels, np.float32) if value.shift is None else value.shift
        repeat = out.shape[2] if channels < 16 else 1  # short rows are handled together
        scale, shift = np.tile(scale, repeat), np.tile(shift, repeat)
        rows = out.reshape(-1, channels * repeat)

        def work(feed: Feed) -> None:
            x = np.ascontiguousarray(value.of(feed)).reshape(rows.shape)
            self.team.share(
                lambda _, a, b: kernels.affine_rows(x[a:b], scale, shift, relu, rows[a:b]), len(rows), self._rows_of(rows)
            )

        self.steps.all.append(work)

    def _rows_of(self, rows: Array) -> int:
        return max(16, CACHE // (4 * rows.shape[1]))

    # --- operators -----------------------------------------------------------------------------------------------------------

    def _cast(self, node: Any, number: int) -> list[int]:
        value = self._value(node.input[0])
        if self._attribute(node, "to") != 1 or value.array.dtype != np.uint8:
            raise Unsupported("a cast that is not from 8 bits to float32")
        self.values[node.output[0]] = value  # the kernels read 8 bits
        return []

    def _view(self, node: Any, number: int) -> list[int]:
        value, kind = self._value(node.input[0]), node.op_type
        if kind != "Transpose" and value.scale is not None:
            raise Unsupported(f"{kind} of a value that is still to be scaled")
        if kind == "Transpose":
            order = tuple(self._attribute(node, "perm"))
            if value.scale is not None and order[1] != 1:
                raise Unsupported("Transpose of a value that is still to be scaled")
            made = value.seen(lambda a: a.transpose(order))
        elif kind == "Identity":
            made = value
        elif kind == "Slice":
            starts, ends, axes = (self._constant(i).tolist() for i in node.input[1:4])
            if len(node.input) > 4 and set(self._constant(node.input[4]).tolist()) != {1}:
                raise Unsupported("Slice with steps")
            cuts = [slice(None)] * value.array.ndim
            for start, end, axis in zip(starts, ends, axes):
                cuts[axis] = slice(start, end)
            made = value.seen(lambda a: a[tuple(cuts)])
        elif kind == "Gather":
            index, axis = self._constant(node.input[1]), self._attribute(node, "axis", 0)
            if index.ndim or axis:
                raise Unsupported("Gather of more than one instant")
            made = value.seen(lambda a: a[int(index)])
        else:
            if kind == "Reshape":
                wanted = [int(s) for s in self._constant(node.input[1])]
                shape = tuple(value.array.shape[i] if s == 0 else s for i, s in enumerate(wanted))
            elif kind == "Squeeze":
                shape = tuple(s for s in value.array.shape if s != 1)
            else:
                shape = (value.array.shape[0], -1)
            if not value.array.flags.c_contiguous:
                raise Unsupported("Reshape of a value whose memory has another order")
            made = value.seen(lambda a: a.reshape(shape))
        self.values[node.output[0]] = made
        if node.input[0] in self.roots:
            self.roots[node.output[0]] = self.roots[node.input[0]]
        return []

    def _per_channel(self, node: Any, number: int) -> list[int]:
        """Sub, Mul, Add of a constant and batch norms: remembered until somebody reads the map."""
        value = self._value(node.input[0])
        channels = value.array.shape[1]
        scale, shift = np.ones(channels), np.zeros(channels)
        if node.op_type == "BatchNormalization":
            gain, bias, mean, variance = (self._constant(i).astype(np.float64) for i in node.input[1:5])
            scale = gain / np.sqrt(variance + self._attribute(node, "epsilon", 1e-5))
            shift = bias - mean * scale
        else:
            constant = self._constant(node.input[1]).astype(np.float64)
            if constant.size not in (1, channels) or (constant.ndim == 4 and constant.shape[1] != constant.size):
                raise Unsupported(f"{node.op_type} with something that is not per channel")
            if node.op_type == "Sub":
                shift = shift - constant.reshape(-1)
            elif node.op_type == "Add":
                shift = shift + constant.reshape(-1)
            else:
                scale = scale * constant.reshape(-1)
        before_scale = np.ones(channels) if value.scale is None else value.scale
        before_shift = np.zeros(channels) if value.shift is None else value.shift
        self.values[node.output[0]] = replace(
            value,
            scale=np.asarray(before_scale * scale, np.float32),
            shift=np.asarray(before_shift * scale + shift, np.float32),
        )
        if node.input[0] in self.roots:
            self.roots[node.output[0]] = self.roots[node.input[0]]
        return []

    def _relu(self, node: Any, number: int) -> list[int]:
        value = self._value(node.input[0]).seen(lambda a: a.transpose(0, 2, 3, 1))
        out = self.buffers.take(node.output[0], value.array.shape)
        self._apply(value, out, relu=True)
        self._made(node.output[0], out.transpose(0, 3, 1, 2))
        return []

    def _add(self, node: Any, number: int) -> list[int]:
        sizes = [self._value(i).array.size for i in node.input]
        if sizes[1] < sizes[0]:
            return self._per_channel(node, number)
        if sizes[0] < sizes[1]:
            node.input[:] = node.input[::-1]
            return self._per_channel(node, number)
        a, b = self._map(node.input[0]), self._map(node.input[1])
        shape = self._value(node.input[0]).array.shape
        if self._value(node.input[1]).array.shape != shape:
            raise Unsupported("Add of different shapes")
        name, done, relu = node.output[0], [], False
        after = self._only_reader(name)
        if after is not None and after[1].op_type == "Relu":
            name, done, relu = after[1].output[0], [after[0]], True
        out = self.buffers.take(name, (shape[0], shape[2], shape[3], shape[1]))
        rows = out.reshape(-1, shape[1])

        def work(feed: Feed) -> None:
            left, right = a(feed).reshape(rows.shape), b(feed).reshape(rows.shape)
            self.team.share(
                lambda _, i, j: kernels.add_rows(left[i:j], right[i:j], relu, rows[i:j]), len(rows), self._rows_of(rows)
            )

        self.steps.all.append(work)
        self._made(name, out.transpose(0, 3, 1, 2))
        return done

    def _concat(self, node: Any, number: int) -> list[int]:
        if self._attribute(node, "axis") == 0 and all(self._value(i).array.ndim == 2 for i in node.input):
            return self._concat_rows(node)
        if self._attribute(node, "axis") != 1:
            raise Unsupported("Concat of something else than channels or rows")
        parts = [self._map(i) for i in node.input]
        widths = [self._value(i).array.shape[1] for i in node.input]
        n, _, h, w = self._value(node.input[0]).array.shape
        out = self.buffers.take(node.output[0], (n, h, w, sum(widths)))
        edges = np.cumsum([0, *widths])

        def work(feed: Feed) -> None:
            for part, a, b in zip(parts, edges, edges[1:]):
                out[..., a:b] = part(feed)

        self.steps.all.append(work)
        self._made(node.output[0], out.transpose(0, 3, 1, 2))
        return []

    def _concat_rows(self, node: Any) -> list[int]:
        parts = [self._value(i) for i in node.input]
        if any(part.scale is not None for part in parts):
            raise Unsupported("Concat of values that are still to be scaled")
        edges = np.cumsum([0, *(len(part.array) for part in parts)])
        out = self.buffers.take(node.output[0], (int(edges[-1]), parts[0].array.shape[1]))

        def work(feed: Feed) -> None:
            for part, a, b in zip(parts, edges, edges[1:]):
                out[a:b] = part.of(feed)

        self.steps.all.append(work)
        self._made(node.output[0], out)
        return []

    def _max_pool(self, node: Any, number: int) -> list[int]:
        size, stride, pad = self._window(node)
        if self._attribute(node, "ceil_mode", 0):
            raise Unsupported("MaxPool that rounds up")
        x = self._map(node.input[0])
        n, c, h, w = self._value(node.input[0]).array.shape
        out_h, out_w = ((s + 2 * p - k) // t + 1 for s, p, k, t in zip((h, w), pad, size, stride))
        out = self.buffers.take(node.output[0], (n, out_h, out_w, c))

        def work(feed: Feed) -> None:
            given = x(feed)
            self.team.share(lambda _, a, b: kernels.largest(given, size, stride, pad, a, b, out), n * out_h, 8)

        self.steps.all.append(work)
        self._made(node.output[0], out.transpose(0, 3, 1, 2))
        return []

    def _resize(self, node: Any, number: int) -> list[int]:
        mode = self._attribute(node, "mode", b"nearest").decode()
        form = self._attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
        nearest = self._attribute(node, "nearest_mode", b"round_prefer_floor").decode()
        smooth = mode == "linear"
        if (mode, form) != ("linear", "half_pixel") and (mode, form, nearest) != ("nearest", "asymmetric", "floor"):
            raise Unsupported(f"Resize with {mode}, {form}")
        x = self._map(node.input[0])
        n, c, h, w = self._value(node.input[0]).array.shape
        if len(node.input) > 3 and node.input[3]:
            out_h, out_w = (int(s) for s in self._constant(node.input[3])[2:])
        else:
            factors = self._constant(node.input[2])
            out_h, out_w = int(h * factors[2]), int(w * factors[3])
        name, added, relu, done = self._ending(node.output[0], (n, c, out_h, out_w))
        more = self._map(added) if added else None
        (y0, wy), (x0, wx) = _places(h, out_h, smooth), _places(w, out_w, smooth)
        out = self.buffers.take(name, (n, out_h, out_w, c))

        def work(feed: Feed) -> None:
            given = x(feed)
            other = more(feed) if more is not None else out
            self.team.share(
                lambda _, a, b: kernels.resize(given, y0, wy, x0, wx, smooth, other, more is not None, relu, a, b, out),
                n * out_h,
                8,
            )

        self.steps.all.append(work)
        self._made(name, out.transpose(0, 3, 1, 2))
        return done

    def _window(self, node: Any) -> tuple[Pair, Pair, Pair]:
        """(size, stride, padding) of a convolution or a pooling."""
        size = tuple(self._attribute(node, "kernel_shape"))
        stride = tuple(self._attribute(node, "strides", (1, 1)))
        pads = tuple(self._attribute(node, "pads", (0, 0, 0, 0)))
        plain = (
            len(size) == 2
            and pads[:2] == pads[2:]
            and set(self._attribute(node, "dilations", (1, 1))) == {1}
            and self._attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        )
        if not plain:
            raise Unsupported(f"{node.op_type} with uneven padding or dilation")
        return (size[0], size[1]), (stride[0], stride[1]), (pads[0], pads[1])

    def _conv(self, node: Any, number: int) -> list[int]:
        if self._attribute(node, "group", 1) != 1:
            raise Unsupported("Conv in groups")
        size, stride, pad = self._window(node)
        weights = self._constant(node.input[1])
        bias = self._constant(node.input[2]) if len(node.input) > 2 else np.zeros(len(weights), np.float32)
        x = self._map(node.input[0])
        n, c, h, w = self._value(node.input[0]).array.shape
        out_h, out_w = ((s + 2 * p - k) // t + 1 for s, p, k, t in zip((h, w), pad, size, stride))
        if (size, stride, pad, n) == ((1, 1), (1, 1), (0, 0), 1) and (turned := self._turned_output(node.output[0])):
            self.steps.turned_product(x, weights.reshape(len(weights), c), bias, turned[0], (h, w))
            self.values[turned[0]] = Value(np.empty((len(weights), w, h), np.float32), turned[0])
            return turned[1]
        name, added, relu, done = self._ending(node.output[0], (n, len(weights), out_h, out_w))
        more = self._map(added) if added else None
        out = self.buffers.take(name, (n, out_h, out_w, len(weights)))
        if size == (3, 3) and stride == (1, 1) and pad == (1, 1) and c % 8 == len(weights) % 8 == 0:
            self.steps.winograd(x, weights, bias, more, relu, out)
        else:
            matrix = np.ascontiguousarray(weights.transpose(2, 3, 1, 0).reshape(-1, len(weights)))
            window = None if (size, stride, pad) == ((1, 1), (1, 1), (0, 0)) else (size, stride, pad)
            self.steps.product(x, matrix, bias, more, relu, out, window)
        self._made(name, out.transpose(0, 3, 1, 2))
        return done

    def _gemm(self, node: Any, number: int) -> list[int]:
        plain = self._attribute(node, "alpha", 1.0) == self._attribute(node, "beta", 1.0) == 1.0
        value, matrix = self._value(node.input[0]), self._constant(node.input[1])
        if not plain or self._attribute(node, "transA", 0) or value.array.ndim != 2 or not value.array.flags.c_contiguous:
            raise Unsupported("Gemm with factors, of a transposed or a many-dimensional value")
        if self._attribute(node, "transB", 0):
            matrix = np.ascontiguousarray(matrix.T)
        bias = self._constant(node.input[2]) if len(node.input) > 2 else np.zeros(matrix.shape[1], np.float32)
        out = self.buffers.take(node.output[0], (value.array.shape[0], matrix.shape[1]))
        self.steps.product(value.of, matrix, bias, None, False, out, None)
        self._made(node.output[0], out)
        return []

    def _turned_output(self, name: str) -> tuple[str, list[int]] | None:
        """(output, nodes) if the map is only read to become an output with rows and columns exchanged, as heads are."""
        transpose = self._only_reader(name)
        if transpose is None or transpose[1].op_type != "Transpose":
            return None
        if tuple(self._attribute(transpose[1], "perm")) != (0, 1, 3, 2):
            return None
        pick = self._only_reader(transpose[1].output[0])
        if pick is None or pick[1].op_type != "Gather" or self._attribute(pick[1], "axis", 0):
            return None
        found = pick[1].output[0]
        single = self._constant(pick[1].input[1]).ndim == 0
        return (found, [transpose[0], pick[0]]) if single and found in self.outputs else None


def _places(size: int, wanted: int, smooth: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each cell of the new size: the cell of the old one before it, and the weight of the next."""
    cells = np.arange(wanted)
    if not smooth:
        return cells * size // wanted, np.zeros(wanted, np.float32)
    where = np.clip((cells + 0.5) * size / wanted - 0.5, 0, size - 1)
    before = where.astype(np.int64)
    return before, (where - before).astype(np.float32)
