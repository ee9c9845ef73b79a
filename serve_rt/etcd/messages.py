"""etcd's wire messages, in a descriptor pool of our own.

The wire needs field numbers and method paths only; message names are free. Generated `*_pb2` files of etcd would
register `kv.proto` and `rpc.proto` in the process-wide pool, where they collide with any other etcd client a user's
program imports, and would tie us to one protobuf compiler. So the few messages we speak are declared here.

proto2 syntax gives every field presence, which is what etcd's `oneof`s need: in a oneof exactly one member is set.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "serve_rt.etcd.wire"
_DECLARATIONS = """
    ResponseHeader: uint64 cluster_id=1, uint64 member_id=2, int64 revision=3, uint64 raft_term=4
    KeyValue: bytes key=1, int64 create_revision=2, int64 mod_revision=3, int64 version=4, bytes value=5, int64 lease=6
    Event: int32 type=1, KeyValue kv=2

    RangeRequest: bytes key=1, bytes range_end=2, int64 limit=3, int64 revision=4
    RangeResponse: ResponseHeader header=1, repeated KeyValue kvs=2, bool more=3, int64 count=4
    PutRequest: bytes key=1, bytes value=2, int64 lease=3
    PutResponse: ResponseHeader header=1
    DeleteRangeRequest: bytes key=1, bytes range_end=2
    DeleteRangeResponse: ResponseHeader header=1, int64 deleted=2
    CompactionRequest: int64 revision=1, bool physical=2
    CompactionResponse: ResponseHeader header=1

    RequestOp: RangeRequest request_range=1, PutRequest request_put=2, DeleteRangeRequest request_delete_range=3
    ResponseOp: RangeResponse response_range=1, PutResponse response_put=2, DeleteRangeResponse response_delete_range=3
    Compare: int32 result=1, int32 target=2, bytes key=3, int64 version=4, int64 create_revision=5, \
        int64 mod_revision=6, bytes value=7, int64 lease=8
    TxnRequest: repeated Compare compare=1, repeated RequestOp success=2, repeated RequestOp failure=3
    TxnResponse: ResponseHeader header=1, bool succeeded=2, repeated ResponseOp responses=3

    WatchCreateRequest: bytes key=1, bytes range_end=2, int64 start_revision=3, bool progress_notify=4, bool fragment=8
    WatchProgressRequest:
    WatchRequest: WatchCreateRequest create_request=1, WatchProgressRequest progress_request=3
    WatchResponse: ResponseHeader header=1, int64 watch_id=2, bool created=3, bool canceled=4, \
        int64 compact_revision=5, string cancel_reason=6, bool fragment=7, repeated Event events=11

    LeaseGrantRequest: int64 TTL=1, int64 ID=2
    LeaseGrantResponse: ResponseHeader header=1, int64 ID=2, int64 TTL=3, string error=4
    LeaseRevokeRequest: int64 ID=1
    LeaseRevokeResponse: ResponseHeader header=1
    LeaseKeepAliveRequest: int64 ID=1
    LeaseKeepAliveResponse: ResponseHeader header=1, int64 ID=2, int64 TTL=3

    AuthenticateRequest: string name=1, string password=2
    AuthenticateResponse: ResponseHeader header=1, string token=2
    StatusRequest:
    StatusResponse: ResponseHeader header=1, string version=2, int64 dbSize=3, uint64 leader=4
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,  # enums too: the wire form is the same
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "string": _Field.TYPE_STRING,
}


def _declare(message: descriptor_pb2.DescriptorProto, declaration: str) -> None:
    *modifier, kind, rest = declaration.split()
    name, number = rest.split("=")
    label = _Field.LABEL_REPEATED if modifier == ["repeated"] else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=label)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


def _load() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="serve_rt_etcd_wire.proto", package=_PACKAGE, syntax="proto2")
    for line in _DECLARATIONS.strip().splitlines():
        name, _, fields = line.strip().partition(":")
        if name:
            message = file.message_type.add(name=name)
            for declaration in filter(str.strip, fields.split(",")):
                _declare(message, declaration)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = [message.name for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names}


# Any: the classes are made at run time, so a type checker cannot know their fields.
CLASSES: dict[str, Any] = _load()

RangeRequest: Any = CLASSES["RangeRequest"]
PutRequest: Any = CLASSES["PutRequest"]
DeleteRangeRequest: Any = CLASSES["DeleteRangeRequest"]
CompactionRequest: Any = CLASSES["CompactionRequest"]
RequestOp: Any = CLASSES["RequestOp"]
Compare: Any = CLASSES["Compare"]
TxnRequest: Any = CLASSES["TxnRequest"]
WatchCreateRequest: Any = CLASSES["WatchCreateRequest"]
WatchProgressRequest: Any = CLASSES["WatchProgressRequest"]
WatchRequest: Any = CLASSES["WatchRequest"]
LeaseGrantRequest: Any = CLASSES["LeaseGrantRequest"]
LeaseRevokeRequest: Any = CLASSES["LeaseRevokeRequest"]
LeaseKeepAliveRequest: Any = CLASSES["LeaseKeepAliveRequest"]
AuthenticateRequest: Any = CLASSES["AuthenticateRequest"]
StatusRequest: Any = CLASSES["StatusRequest"]
