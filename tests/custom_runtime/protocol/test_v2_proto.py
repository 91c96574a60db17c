"""Answers that are written by hand are what protobuf reads. In a process of its own: see tests/conftest.py."""

import subprocess
import sys

CHECK = """
import itertools
from mlserver.grpc import dataplane_pb2 as pb
from custom_runtime.active import CONTRACT
from custom_runtime.prediction.query import Prediction
from custom_runtime.schema import FEATURE_SOURCES
from custom_runtime.protocol.v2_proto import write_response

OUTPUTS = [(output.name, output.datatype) for output in CONTRACT.outputs]
names = [name for name, _ in OUTPUTS]
wanted = [tuple(names), *((name,) for name in names)]
for rows, requested, raw in itertools.product((1, 2, 127, 128, 20_000), wanted, (False, True)):
    prediction = Prediction([row / rows for row in range(rows)], [row % 3 for row in range(rows)])
    content = write_response("m" * 200, "7", "\\u00e9", prediction, requested, raw=raw)
    read = pb.ModelInferResponse.FromString(content)
    assert (read.model_name, read.model_version, read.id) == ("m" * 200, "7", "\\u00e9")
    assert [(each.name, each.datatype) for each in read.outputs] == [each for each in OUTPUTS if each[0] in requested]
    assert all(list(each.shape) == [rows, 1] for each in read.outputs)
    sources = [FEATURE_SOURCES[row % 3].encode() for row in range(rows)]
    if raw:
        assert len(read.raw_output_contents) == len(requested)
        assert not any(each.HasField("contents") for each in read.outputs)
    else:
        for each in read.outputs:
            is_score = each.name == CONTRACT.outputs[0].name
            given = each.contents.fp64_contents if is_score else each.contents.bytes_contents
            assert list(given) == (prediction.scores if is_score else sources)
    assert len(read.SerializeToString()) == len(content)
print("checked")
"""

READ = """
import itertools
from mlserver.grpc import dataplane_pb2 as pb
from custom_runtime.errors import InvalidInput
from custom_runtime.protocol import v2
from custom_runtime.protocol.v2_proto import only_key, read_tensors

FIELDS = {"INT64": "int64_contents", "INT32": "int_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
names, shapes = ("customer_id", "tenure", ""), ([1], [1, 1], [], [2], [1, 2], [0], [-1], [1, 1, 1])
keys = (42, 0, -1, 2**31 - 1, -(2**31))
taken = 0
for name, shape, datatype, key, count, raw, inputs in itertools.product(
    names, shapes, (*FIELDS, "int64"), keys, (0, 1, 2), (None, 0, 4, 8, 12), (1, 2)
):
    request = pb.ModelInferRequest()
    for _ in range(inputs):
        given = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw is None and datatype in FIELDS:
            value = b"a" if datatype == "BYTES" else key
            getattr(given.contents, FIELDS[datatype]).extend([value] * count)
    if raw is not None:
        request.raw_input_contents.extend([key.to_bytes(16, "little", signed=True)[:raw]] * count)
    quick = only_key(request)
    try:
        slow = v2.decode(read_tensors(request))
    except InvalidInput:
        assert quick is None, request
        continue
    if quick is not None:
        taken += 1
        assert (list(slow.keys), dict(slow.given)) == (quick, {}), request
    else:
        assert len(slow.keys) > 1, request
assert taken
print("checked")
"""


def test_the_usual_request_is_read_as_its_tensor_is() -> None:
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n", done.stderr


def test_a_response_is_what_protobuf_reads() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n", done.stderr
