"""Models that load and then do what they must not, for the tests of what survives that."""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def edited(model, edit):
    """A .tflite after edit(operator, name of the operator) of each operator of its graph."""
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    for op in content.subgraphs[0].operators:
        edit(op, names[content.operatorCodes[op.opcodeIndex].builtinCode])
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def without_operands(model):
    """The operands of a matrix product declared absent: the runtime follows a null pointer."""

    def cut(op, name):
        op.inputs = [-1, -1] if name == "BATCH_MATMUL" else op.inputs

    return edited(model, cut)
