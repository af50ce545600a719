"""Which tensor of a classifier is its score: the one before a trailing softmax, sigmoid or argmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto, TensorProto

from onnxplain.facts.errors import ModelRefused
from onnxplain.model.graphs.graph import Graph

Activation = Literal["softmax", "sigmoid", "none"]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# What exporters put behind the scores and what says nothing of its own.
_TRANSPARENT = frozenset({"Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze", "Reshape", "Transpose"})
_ACTIVATIONS: dict[str, Activation] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_CHOICES = frozenset({"ArgMax", "TopK", "Hardmax"})
_RISING = frozenset({"Log", "Clip", "Add"})  # put behind probabilities, often to keep a logarithm away from 0
_TELLING = ("logit", "score", "class", "prob", "pred")  # what the main output's name often has in it


@dataclass(frozen=True)
class ScoreFact:
    """The tensor to explain, what turns it into probabilities, and the graph output behind which it was found.

    `activation` is None where the graph does not say (it ends in the scores themselves).
    """

    tensor: str
    activation: Activation | None
    output: str


def find_score(graph: Graph, wanted: str | None) -> tuple[ScoreFact, str]:
    """The score tensor, and a warning for the card (empty where there is nothing to warn of).

    Args:
        graph: the model.
        wanted: the manifest's `score_output`: any tensor of the graph.

    Raises:
        ModelRefused: the wanted tensor is not there or not a float, or no output is a score.
    """
    outputs = [value.name for value in graph.model.graph.output]
    if wanted is not None:
        if wanted not in graph.producer:
            raise ModelRefused(
                f"`score_output` is '{wanted}', which no node of the graph computes; the outputs are {_listed(outputs)}."
            )
        return ScoreFact(wanted, _activation_after(graph, wanted), wanted if wanted in outputs else outputs[0]), ""
    found = {}
    for output in outputs:
        fact = _behind(graph, output)
        if fact is not None and fact.tensor not in found:
            found[fact.tensor] = fact
    if not found:
        raise ModelRefused(
            f"None of the outputs {_listed(outputs)} holds scores as floating point numbers; "
            "name the tensor to explain as `score_output` in model.toml."
        )
    # An output behind softmax or argmax is surely the classification; maps, and features from which another output is made,
    # surely are not. Otherwise names tell, and where they do not, the first is the main one.
    facts = sorted(
        found.values(),
        key=lambda fact: (
            fact.activation is None,
            len(graph.shape(fact.tensor) or ()) > 2,
            any(other is not fact and fact.tensor in graph.needed_for([other.tensor]) for other in found.values()),
            not any(word in fact.output.lower() for word in _TELLING),
        ),
    )
    warning = (
        f"The model has several outputs; '{facts[0].tensor}' is explained. Set `score_output` to explain another one."
        if len(facts) > 1
        else ""
    )
    return facts[0], warning


def _behind(graph: Graph, output: str) -> ScoreFact | None:
    """Walk back from an output through what only reshapes or chooses, to the scores."""
    name, chosen, plain = output, None, True
    while (node := graph.producer.get(name)) is not None:
        if node.op_type in _ACTIVATIONS:
            return ScoreFact(node.input[0], _ACTIVATIONS[node.op_type], output)
        if (exponent := _decomposed_softmax(graph, node)) is not None:
            return ScoreFact(exponent, "softmax", output)
        if node.op_type in _CHOICES and plain:
            chosen = node.input[0]
        elif node.op_type in _RISING and _is_constant(graph, *node.input[1:]):
            plain = False  # only behind probabilities does it say nothing of its own
        elif node.op_type not in _TRANSPARENT:
            break
        name = node.input[0]
    if chosen is not None:
        return ScoreFact(chosen, "softmax", output)
    return ScoreFact(output, None, output) if graph.element_type(output) in FLOATS | {TensorProto.UNDEFINED} else None


def _is_constant(graph: Graph, *names: str) -> bool:
    """Whether these are weights, or absent."""
    constants = graph.weights.keys() | {name for name, node in graph.producer.items() if node.op_type == "Constant"}
    return all(not name or name in constants for name in names)


def _decomposed_softmax(graph: Graph, node: NodeProto) -> str | None:
    """The exponent of `exp(x - max) / sum(exp(x - max))`, as older exporters write a softmax; None if it is none."""
    if node.op_type != "Div":
        return None
    numerator, denominator = (graph.producer.get(name) for name in node.input)
    if numerator is None or denominator is None or numerator.op_type != "Exp" or denominator.op_type != "ReduceSum":
        return None
    if denominator.input[0] != numerator.output[0]:
        return None
    shifted = graph.producer.get(numerator.input[0])
    if shifted is not None and shifted.op_type == "Sub":
        largest = graph.producer.get(shifted.input[1])
        if largest is not None and largest.op_type == "ReduceMax" and largest.input[0] == shifted.input[0]:
            return shifted.input[0]
    return numerator.input[0]


def _activation_after(graph: Graph, tensor: str) -> Activation | None:
    """What the graph itself does with a score named by the manifest."""
    for node in graph.consumers.get(tensor, ()):
        if node.op_type in _ACTIVATIONS:
            return _ACTIVATIONS[node.op_type]
    node_before = graph.producer[tensor]
    return "none" if node_before.op_type in _ACTIVATIONS else None


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:10]) + (" ..." if len(names) > 10 else "")
