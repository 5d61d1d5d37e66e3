"""Calls a CRI socket with grpcio.

The first argument is the socket; standard input is a JSON list of calls, each with `method`,
`request` and perhaps `stream`. Prints a JSON list: for each call its `answers`, or `code` and
`text`. The messages are made here from their field numbers (kubelet-images.md 11).
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

FIELDS = {
    "Empty": "",
    "VersionRequest": "version 1 string",
    "VersionResponse": "version 1 string, runtime_name 2 string, runtime_version 3 string, "
    "runtime_api_version 4 string",
    "Int64Value": "value 1 int64",
    "UInt64Value": "value 1 uint64",
    "ImageSpec": "image 1 string, annotations 2 map, user_specified_image 18 string, "
    "runtime_handler 19 string, image_ref 20 string",
    "Image": "id 1 string, repo_tags 2 *string, repo_digests 3 *string, size 4 uint64, "
    "uid 5 Int64Value, username 6 string, spec 7 ImageSpec, pinned 8 bool",
    "ImageFilter": "image 1 ImageSpec",
    "ListImagesRequest": "filter 1 ImageFilter",
    "ListImagesResponse": "images 1 *Image",
    "ImageStatusRequest": "image 1 ImageSpec, verbose 2 bool",
    "ImageStatusResponse": "image 1 Image, info 2 map",
    "AuthConfig": "username 1 string, password 2 string, auth 3 string, server_address 4 string, "
    "identity_token 5 string, registry_token 6 string",
    "PullImageRequest": "image 1 ImageSpec, auth 2 AuthConfig",
    "PullImageResponse": "image_ref 1 string",
    "RemoveImageRequest": "image 1 ImageSpec",
    "FilesystemIdentifier": "mountpoint 1 string",
    "FilesystemUsage": "timestamp 1 int64, fs_id 2 FilesystemIdentifier, "
    "used_bytes 3 UInt64Value, inodes_used 4 UInt64Value",
    "ImageFsInfoResponse": "image_filesystems 1 *FilesystemUsage, "
    "container_filesystems 2 *FilesystemUsage",
}
METHODS = {
    "Version": ("VersionRequest", "VersionResponse"),
    "ListImages": ("ListImagesRequest", "ListImagesResponse"),
    "StreamImages": ("ListImagesRequest", "ListImagesResponse"),
    "ImageStatus": ("ImageStatusRequest", "ImageStatusResponse"),
    "PullImage": ("PullImageRequest", "PullImageResponse"),
    "RemoveImage": ("RemoveImageRequest", "Empty"),
    "ImageFsInfo": ("Empty", "ImageFsInfoResponse"),
}


def add_field(message, name, number, kind):
    proto = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=int(number), label=proto.LABEL_OPTIONAL)
    if kind == "map":
        entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        add_field(entry, "key", 1, "string")
        add_field(entry, "value", 2, "string")
        kind = f"*{message.name}.{entry.name}"
    if kind.startswith("*"):
        field.label, kind = proto.LABEL_REPEATED, kind[1:]
    if f"TYPE_{kind.upper()}" in proto.Type.keys():
        field.type = proto.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = proto.TYPE_MESSAGE, f".runtime.v1.{kind}"


def messages():
    file = descriptor_pb2.FileDescriptorProto(
        name="cri.proto", package="runtime.v1", syntax="proto3"
    )
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split(", ")):
            add_field(message, *field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {
        name: message_factory.GetMessageClass(find(f"runtime.v1.{name}")) for name in FIELDS
    }


def call(channel, known, method, request, stream=False):
    asked, answered = METHODS.get(method.split("/")[1], ("Empty", "Empty"))
    make = channel.unary_stream if stream else channel.unary_unary
    function = make(
        f"/runtime.v1.{method}",
        request_serializer=known[asked].SerializeToString,
        response_deserializer=known[answered].FromString,
    )
    message = json_format.ParseDict(request, known[asked]())
    try:
        answer = function(message, timeout=60)
        answers = list(answer) if stream else [answer]
    except grpc.RpcError as error:
        return {"code": error.code().name, "text": error.details()}
    to_dict = json_format.MessageToDict
    return {"answers": [to_dict(a, preserving_proto_field_name=True) for a in answers]}


def main():
    known = messages()
    # By itself it would send the path of the socket, which is no authority that HTTP knows.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{sys.argv[1]}", options) as channel:
        print(json.dumps([call(channel, known, **one) for one in json.load(sys.stdin)]))


main()
