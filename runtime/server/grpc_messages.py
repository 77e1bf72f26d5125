"""The messages of the Open Inference Protocol over gRPC, and of gRPC's health checks, from their specifications.

open-inference-protocol, specification/protocol/open_inference_grpc.proto, package `inference`; what Triton has besides,
two kinds of parameters and streams (common, protobuf/grpc_service.proto); grpc, doc/health-checking.md, package
`grpc.health.v1`. They stay out of protobuf's default pool, so that a client's definitions may live in the same process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

INFERENCE = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; "
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4; "
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "InferParameter": "oneof bool bool_param = 1; oneof int64 int64_param = 2; oneof string string_param = 3; "
    "oneof double double_param = 4; oneof uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2; "
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; "
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; "
    "map InferParameter parameters = 4; repeated ModelInferRequest.InferInputTensor inputs = 5; "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    "map InferParameter parameters = 4; InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1; map InferParameter parameters = 2",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; "
    "map InferParameter parameters = 4; repeated ModelInferResponse.InferOutputTensor outputs = 5; "
    "repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    "map InferParameter parameters = 4; InferTensorContents contents = 5",
    "ModelStreamInferResponse": "string error_message = 1; ModelInferResponse infer_response = 2",
}
"""Fields by message. `map` is one from strings; all fields of `oneof` in a message exclude each other."""
HEALTH = {
    "HealthCheckRequest": "string service = 1",
    "HealthCheckResponse": "int32 status = 1",  # an enumeration, which travels as int32
}
SERVING, NOT_SERVING = 1, 2

_FIELD = re.compile(r"(?:(repeated|map|oneof) )?([\w.]+) (\w+) = (\d+)")


def messages(package: str, definitions: Mapping[str, str]) -> dict[str, Any]:
    """The classes of messages by their names, without the package."""
    file = FileDescriptorProto(name=f"attar/{package}.proto", package=package, syntax="proto3")
    found: dict[str, DescriptorProto] = {}
    for name, fields in definitions.items():
        outer, _, inner = name.rpartition(".")
        found[name] = (found[outer].nested_type if outer else file.message_type).add(name=inner)
        for match in _FIELD.finditer(fields):
            _add_field(found[name], f".{package}", name, *match.groups())
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in definitions
    }


def _add_field(
    owner: DescriptorProto, scope: str, name: str, rule: str | None, kind: str, field: str, number: str
) -> None:
    """One field of the message `name`; `kind` is a scalar of protobuf, or another message of its package."""
    repeated = rule in ("repeated", "map")
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    added = owner.field.add(name=field, number=int(number), label=label)
    if rule == "map":
        entry = owner.nested_type.add(name=f"{field.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, scope, "", "", "string", "key", "1")
        _add_field(entry, scope, "", "", kind, "value", "2")
        kind = f"{name}.{entry.name}"
    elif rule == "oneof":
        if not owner.oneof_decl:
            owner.oneof_decl.add(name="choice")
        added.oneof_index = 0
    scalar = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}", None)
    added.type = FieldDescriptorProto.TYPE_MESSAGE if scalar is None else scalar
    if scalar is None:
        added.type_name = f"{scope}.{kind}"
