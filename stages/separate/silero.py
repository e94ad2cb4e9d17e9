"""Silero VAD v6 as one graph over a block of frames, built from the weights that silero-vad ships.

The published graph takes one frame a run. Only its LSTM has memory. All layers before it (a Fourier transform by
convolution, four convolutions) and after it (one neuron) are the same function of each frame, so the frames of a block
pass through them as rows of one matrix product, and through the LSTM as one sequence. The small convolutions are
written as products with gathered inputs, which onnxruntime computes several times faster.
Source: https://github.com/snakers4/silero-vad (MIT).
"""

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

STATE_SHAPE: Final = (2, 1, 128)


class Form(msgspec.Struct, frozen=True):
    """One half of the published graph. Both halves have frames of 32 ms and the same layers after the transform.

    - `frame_samples`, `context_samples`: those of a frame, and those before it that it is read with.
    - `window_samples`: those of a window of the transform; the next one begins half of them later.
    - `branch`: its name in the published graph, which is one `If` on the rate.
    """

    rate_hz: int
    frame_samples: int
    context_samples: int
    window_samples: int
    branch: str

    @property
    def n_inputs(self) -> int:
        return self.context_samples + self.frame_samples

    @property
    def n_bins(self) -> int:
        return self.window_samples // 2 + 1


NARROW: Final = Form(8_000, 256, 32, 128, "else_branch")
WIDE: Final = Form(16_000, 512, 64, 256, "then_branch")

_WINDOWS: Final = 4
_OPSET: Final = 16
_SHAPES: Final = {
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "encoder.3.reparam_conv.bias": (128,),
    "decoder.rnn.weight_ih": (512, 128),
    "decoder.rnn.weight_hh": (512, 128),
    "decoder.rnn.bias_ih": (512,),
    "decoder.rnn.bias_hh": (512,),
    "decoder.decoder.2.weight": (1, 128, 1),
    "decoder.decoder.2.bias": (1,),
}


def block_graph(published: bytes, form: Form = NARROW) -> bytes:
    """Return an ONNX model equal to one half of the published one, for any number n of consecutive frames.

    Inputs: `input` float32 (n, `form.n_inputs`), `state` float32 (2, 1, 128), `length` int32 (1,), the number of frames
    that count.
    Outputs: `output` float32 (n, 1), probabilities; `stateN`, the state after the last frame that counts.
    Raises ValueError if `published` does not hold the weights of Silero v6 under their names.
    """
    import onnx

    weights = _weights(onnx.load_from_string(published), form)
    graph = _Graph()
    _encode(graph, weights, form)
    _remember(graph, weights)
    inputs = [("input", onnx.TensorProto.FLOAT, ["n", form.n_inputs]), ("state", onnx.TensorProto.FLOAT, STATE_SHAPE)]
    outputs = [("output", onnx.TensorProto.FLOAT, ["n", 1]), ("stateN", onnx.TensorProto.FLOAT, STATE_SHAPE)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(kind, *edges, **attributes) for kind, *edges, attributes in graph.nodes],
            f"silero_vad_{form.rate_hz}_blocks",
            [onnx.helper.make_tensor_value_info(*one) for one in [*inputs, ("length", onnx.TensorProto.INT32, [1])]],
            [onnx.helper.make_tensor_value_info(*one) for one in outputs],
            [onnx.numpy_helper.from_array(values, name) for name, values in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def _weights(model: Any, form: Form) -> dict[str, Array]:
    """Return the weights of one half by name."""
    import onnx

    shapes = _SHAPES | {
        "stft.forward_basis_buffer": (2 * form.n_bins, 1, form.window_samples),
        "encoder.0.reparam_conv.weight": (128, form.n_bins, 3),
    }
    found: dict[str, Array] = {}
    branches = [one.g for node in model.graph.node for one in node.attribute if one.name == form.branch]
    for node in (node for branch in branches for node in branch.node if node.op_type == "Constant"):
        name = node.output[0].rpartition("__")[2]
        if name in shapes:
            found[name] = onnx.numpy_helper.to_array(node.attribute[0].t)
    if {name: values.shape for name, values in found.items()} != shapes:
        raise ValueError(f"these are not the weights of Silero VAD v6: {sorted(shapes.keys() - found)} are missing")
    return found


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, values: Any) -> str:
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def add(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append((kind, inputs, list(outputs), attributes))
        return outputs[0]


def _encode(graph: _Graph, weights: dict[str, Array], form: Form) -> None:
    """Add the nodes from `input` (n, `form.n_inputs`) to `encoded.3` (n, 1, 128)."""
    n_inputs, length, step = form.n_inputs, form.window_samples, form.window_samples // 2
    at = np.arange(n_inputs + form.context_samples)
    at[n_inputs:] = 2 * n_inputs - 2 - at[n_inputs:]  # the end is reflected
    windows = np.stack([at[step * index : step * index + length] for index in range(_WINDOWS)])
    graph.add("Gather", ["input", graph.constant("windows.at", windows)], "windows", axis=1)
    basis = graph.constant("basis", weights["stft.forward_basis_buffer"][:, 0].T)
    graph.add("MatMul", ["windows", basis], "spectrum")
    graph.add("Mul", ["spectrum", "spectrum"], "squares")
    graph.add("Split", ["squares", graph.constant("halves", [form.n_bins, form.n_bins])], "real", "imaginary", axis=2)
    graph.add("Add", ["real", "imaginary"], "power")
    graph.add("Sqrt", ["power"], "magnitude")
    # Kernels of 3 over 4, 4, 2 and 1 positions. Taps that would only meet padding are left out.
    graph.add("Pad", ["magnitude", graph.constant("pads.0", [0, 1, 0, 0, 1, 0])], "padded.0")
    _convolve(graph, 0, "padded.0", [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]], _kernel(weights, 0), weights)
    graph.add("Pad", ["encoded.0", graph.constant("pads.1", [0, 1, 0, 0, 0, 0])], "padded.1")
    _convolve(graph, 1, "padded.1", [[0, 1, 2], [2, 3, 4]], _kernel(weights, 1), weights)
    _convolve(graph, 2, "encoded.1", [[0, 1]], _kernel(weights, 2)[1:], weights)
    _convolve(graph, 3, "encoded.2", [[0]], _kernel(weights, 3)[1:2], weights)


def _convolve(
    graph: _Graph, layer: int, inputs: str, taps: list[list[int]], kernel: Array, weights: dict[str, Array]
) -> None:
    """Add a layer and its rectifier as a matrix product: (n, positions, in) to (n, len(taps), out)."""
    width, n_in, n_out = kernel.shape
    name = f"{layer}"
    graph.add("Gather", [inputs, graph.constant(f"taps.{name}", taps)], f"gathered.{name}", axis=1)
    shape = graph.constant(f"shape.{name}", [-1, len(taps), width * n_in])
    graph.add("Reshape", [f"gathered.{name}", shape], f"rows.{name}")
    graph.add("MatMul", [f"rows.{name}", graph.constant(f"kernel.{name}", kernel.reshape(-1, n_out))], f"sums.{name}")
    bias = graph.constant(f"bias.{name}", weights[f"encoder.{layer}.reparam_conv.bias"])
    graph.add("Add", [f"sums.{name}", bias], f"biased.{name}")
    graph.add("Relu", [f"biased.{name}"], f"encoded.{name}")


def _kernel(weights: dict[str, Array], layer: int) -> Array:
    """Return a layer's kernel, shape (width, in, out)."""
    return weights[f"encoder.{layer}.reparam_conv.weight"].transpose(2, 1, 0)


def _remember(graph: _Graph, weights: dict[str, Array]) -> None:
    """Add the nodes from the sequence `encoded.3` (n, 1, 128) and `state` to `output` and `stateN`."""
    graph.add("Split", ["state", graph.constant("each", [1, 1])], "hidden", "cell", axis=0)
    biases = [_gates(weights["decoder.rnn.bias_ih"]), _gates(weights["decoder.rnn.bias_hh"])]
    recurrent = [
        graph.constant("lstm.input", _gates(weights["decoder.rnn.weight_ih"])[None]),
        graph.constant("lstm.hidden", _gates(weights["decoder.rnn.weight_hh"])[None]),
        graph.constant("lstm.bias", np.concatenate(biases)[None]),
    ]
    given = ["encoded.3", *recurrent, "length", "hidden", "cell"]
    graph.add("LSTM", given, "heard", "last.hidden", "last.cell", hidden_size=STATE_SHAPE[-1])
    graph.add("Concat", ["last.hidden", "last.cell"], "stateN", axis=0)
    graph.add("Relu", ["heard"], "active")
    graph.add("Reshape", ["active", graph.constant("shape.heard", [-1, STATE_SHAPE[-1]])], "rows")
    graph.add("MatMul", ["rows", graph.constant("decoder", weights["decoder.decoder.2.weight"][0])], "sums")
    graph.add("Add", ["sums", graph.constant("decoder.bias", weights["decoder.decoder.2.bias"])], "logits")
    graph.add("Sigmoid", ["logits"], "output")


def _gates(values: Array) -> Array:
    """Reorder LSTM gates from PyTorch (input, forget, cell, output) to ONNX (input, output, forget, cell)."""
    into, forget, cell, out = np.split(values, 4)
    return np.concatenate([into, out, forget, cell])
