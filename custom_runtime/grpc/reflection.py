"""grpc.reflection v1 and v1alpha, for grpcurl and similar clients. Both versions have the same messages.

The small descriptors of health and reflection are built here, in a pool of their own: the packages
grpcio-health-checking and grpcio-reflection tie the version of protobuf, and know v1alpha only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from custom_runtime.errors import InvalidInput

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {"string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES, "int32": _FIELD.TYPE_INT32}
_UNIMPLEMENTED, _NOT_FOUND = 12, 5
# message -> its fields as "name number type"; a type that begins with a point is a message or an enum of the file.
_Messages = dict[str, tuple[str, ...]]
_HEALTH_MESSAGES: _Messages = {
    "HealthCheckRequest": ("service 1 string",),
    "HealthCheckResponse": ("status 1 .HealthCheckResponse.ServingStatus",),
}
_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_REFLECTION_MESSAGES: _Messages = {
    "ServerReflectionRequest": (
        "host 1 string",
        "file_by_filename 3 string oneof",
        "file_containing_symbol 4 string oneof",
        "file_containing_extension 5 .ExtensionRequest oneof",
        "all_extension_numbers_of_type 6 string oneof",
        "list_services 7 string oneof",
    ),
    "ExtensionRequest": ("containing_type 1 string", "extension_number 2 int32"),
    "ServerReflectionResponse": (
        "valid_host 1 string",
        "original_request 2 .ServerReflectionRequest",
        "file_descriptor_response 4 .FileDescriptorResponse oneof",
        "all_extension_numbers_response 5 .ExtensionNumberResponse oneof",
        "list_services_response 6 .ListServiceResponse oneof",
        "error_response 7 .ErrorResponse oneof",
    ),
    "FileDescriptorResponse": ("file_descriptor_proto 1 bytes repeated",),
    "ExtensionNumberResponse": ("base_type_name 1 string", "extension_number 2 int32 repeated"),
    "ListServiceResponse": ("service 1 .ServiceResponse repeated",),
    "ServiceResponse": ("name 1 string",),
    "ErrorResponse": ("error_code 1 int32", "error_message 2 string"),
}


class Reflection:
    """Answers from file descriptors; services: the full names that are served."""

    def __init__(self, files: Iterable[Any], services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._files: dict[str, bytes] = {}
        self._symbols: dict[str, str] = {}
        for file in (*files, *_FILES):
            self._files[file.name] = file.serialized_pb
            named = (*file.message_types_by_name.values(), *file.enum_types_by_name.values())
            for symbol in (*_nested(named), *file.services_by_name.values()):
                self._symbols[symbol.full_name] = file.name
            for service in file.services_by_name.values():
                for method in service.methods:
                    self._symbols[method.full_name] = file.name

    def v1(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Answer each question of a grpc.reflection.v1 stream."""
        return self._answers(messages, "grpc.reflection.v1")

    def v1alpha(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Answer each question of a grpc.reflection.v1alpha stream."""
        return self._answers(messages, "grpc.reflection.v1alpha")

    async def _answers(self, messages: AsyncIterator[bytes], package: str) -> AsyncGenerator[bytes, None]:
        ask: Any = message_class(f"{package}.ServerReflectionRequest")
        reply: Any = message_class(f"{package}.ServerReflectionResponse")
        async for message in messages:
            try:
                question = ask.FromString(message)
            except DecodeError:
                raise InvalidInput("the message is no ServerReflectionRequest") from None
            answer = reply(valid_host=question.host, original_request=question)
            self._answer(question, answer)
            yield answer.SerializeToString()

    def _answer(self, question: Any, answer: Any) -> None:
        match question.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._give(answer, question.file_by_filename, question.file_by_filename)
            case "file_containing_symbol":
                symbol = question.file_containing_symbol
                self._give(answer, self._symbols.get(symbol, ""), symbol)
            case "all_extension_numbers_of_type":
                answer.all_extension_numbers_response.base_type_name = question.all_extension_numbers_of_type
            case "file_containing_extension":
                self._give(answer, "", question.file_containing_extension.containing_type)
            case _:
                answer.error_response.error_code = _UNIMPLEMENTED
                answer.error_response.error_message = "the message asks for nothing that this server knows"

    def _give(self, answer: Any, file: str, asked: str) -> None:
        content = self._files.get(file)
        if content is None:
            answer.error_response.error_code = _NOT_FOUND
            answer.error_response.error_message = f"{asked[:80]!r} is not defined here"
        else:
            answer.file_descriptor_response.file_descriptor_proto.append(content)


def message_class(name: str) -> Any:
    """Return the class of a health or reflection message by its full name."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _nested(types: Iterable[Any]) -> Iterable[Any]:
    for each in types:
        yield each
        yield from _nested((*getattr(each, "nested_types", ()), *getattr(each, "enum_types", ())))


def _file(package: str, messages: _Messages, service: str, methods: dict[str, tuple[str, str, bool, bool]]) -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}/{service.lower()}.proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, package, *field.split())
        if any(field.endswith("oneof") for field in fields):
            message.oneof_decl.add(name="message_request" if name.endswith("Request") else "message_response")
    added = file.service.add(name=service)
    for name, (request, response, client_streaming, server_streaming) in methods.items():
        added.method.add(
            name=name,
            input_type=f".{package}.{request}",
            output_type=f".{package}.{response}",
            client_streaming=client_streaming,
            server_streaming=server_streaming,
        )
    return file


def _add_field(message: Any, package: str, name: str, number: str, kind: str, more: str = "") -> None:
    field = message.field.add(name=name, number=int(number))
    field.label = _FIELD.LABEL_REPEATED if more == "repeated" else _FIELD.LABEL_OPTIONAL
    if kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type = _FIELD.TYPE_ENUM if kind.endswith("ServingStatus") else _FIELD.TYPE_MESSAGE
        field.type_name = f".{package}{kind}"
    if more == "oneof":
        field.oneof_index = 0


def _health_file() -> Any:
    watch = {
        "Check": ("HealthCheckRequest", "HealthCheckResponse", False, False),
        "Watch": ("HealthCheckRequest", "HealthCheckResponse", False, True),
    }
    file = _file("grpc.health.v1", _HEALTH_MESSAGES, "Health", watch)
    states = file.message_type[1].enum_type.add(name="ServingStatus")
    for number, state in enumerate(_STATES):
        states.value.add(name=state, number=number)
    return file


def _reflection_file(package: str) -> Any:
    info = {"ServerReflectionInfo": ("ServerReflectionRequest", "ServerReflectionResponse", True, True)}
    return _file(package, _REFLECTION_MESSAGES, "ServerReflection", info)


_POOL = descriptor_pool.DescriptorPool()
_FILES = [
    _POOL.AddSerializedFile(file.SerializeToString()) or _POOL.FindFileByName(file.name)
    for file in (_health_file(), *(_reflection_file(name.rpartition(".")[0]) for name in REFLECTION))
]
