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


def test_a_response_is_what_protobuf_reads() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n", done.stderr
