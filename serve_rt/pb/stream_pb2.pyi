from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_KIND_BODY: _ClassVar[DataKind]
    DATA_KIND_WS_TEXT: _ClassVar[DataKind]
    DATA_KIND_WS_BINARY: _ClassVar[DataKind]
    DATA_KIND_WS_CLOSE: _ClassVar[DataKind]
    DATA_KIND_ITEM: _ClassVar[DataKind]
    DATA_KIND_CALL: _ClassVar[DataKind]

class ErrorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_STATE_NOT_STARTED: _ClassVar[ErrorState]
    ERROR_STATE_STARTED: _ClassVar[ErrorState]
    ERROR_STATE_UNKNOWN: _ClassVar[ErrorState]
DATA_KIND_BODY: DataKind
DATA_KIND_WS_TEXT: DataKind
DATA_KIND_WS_BINARY: DataKind
DATA_KIND_WS_CLOSE: DataKind
DATA_KIND_ITEM: DataKind
DATA_KIND_CALL: DataKind
ERROR_STATE_NOT_STARTED: ErrorState
ERROR_STATE_STARTED: ErrorState
ERROR_STATE_UNKNOWN: ErrorState

class ClientFrame(_message.Message):
    __slots__ = ("hello", "parts")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    hello: ClientHello
    parts: _containers.RepeatedCompositeFieldContainer[ClientPart]
    def __init__(self, hello: _Optional[_Union[ClientHello, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[ClientPart, _Mapping]]] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("hello", "refused", "parts")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    hello: ServerHello
    refused: Refused
    parts: _containers.RepeatedCompositeFieldContainer[ServerPart]
    def __init__(self, hello: _Optional[_Union[ServerHello, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[ServerPart, _Mapping]]] = ...) -> None: ...

class ClientHello(_message.Message):
    __slots__ = ("protocol", "cluster", "token", "replica_id", "incarnation", "client")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    cluster: str
    token: bytes
    replica_id: str
    incarnation: int
    client: str
    def __init__(self, protocol: _Optional[int] = ..., cluster: _Optional[str] = ..., token: _Optional[bytes] = ..., replica_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., client: _Optional[str] = ...) -> None: ...

class ServerHello(_message.Message):
    __slots__ = ("protocol", "replica_id", "incarnation", "capacity", "draining", "models")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    replica_id: str
    incarnation: int
    capacity: int
    draining: bool
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., replica_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., capacity: _Optional[int] = ..., draining: bool = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ClientPart(_message.Message):
    __slots__ = ("open", "data", "cancel", "credit", "ping", "goodbye")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    data: Data
    cancel: Cancel
    credit: Credit
    ping: Ping
    goodbye: Goodbye
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class ServerPart(_message.Message):
    __slots__ = ("accepted", "rejected", "head", "data", "error", "ended", "credit", "load", "pong", "drain", "models", "window")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    rejected: Rejected
    head: Head
    data: Data
    error: Error
    ended: Ended
    credit: Credit
    load: Load
    pong: Pong
    drain: Drain
    models: Models
    window: Window
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., models: _Optional[_Union[Models, _Mapping]] = ..., window: _Optional[_Union[Window, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("id", "time_left_ms", "request_id", "app", "route", "multiplexed_model_id", "session_id", "http", "call", "body", "end", "answer_window", "body_window")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLEXED_MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ANSWER_WINDOW_FIELD_NUMBER: _ClassVar[int]
    BODY_WINDOW_FIELD_NUMBER: _ClassVar[int]
    id: int
    time_left_ms: int
    request_id: str
    app: str
    route: str
    multiplexed_model_id: str
    session_id: str
    http: HttpHead
    call: MethodCall
    body: bytes
    end: bool
    answer_window: int
    body_window: int
    def __init__(self, id: _Optional[int] = ..., time_left_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., app: _Optional[str] = ..., route: _Optional[str] = ..., multiplexed_model_id: _Optional[str] = ..., session_id: _Optional[str] = ..., http: _Optional[_Union[HttpHead, _Mapping]] = ..., call: _Optional[_Union[MethodCall, _Mapping]] = ..., body: _Optional[bytes] = ..., end: bool = ..., answer_window: _Optional[int] = ..., body_window: _Optional[int] = ...) -> None: ...

class HttpHead(_message.Message):
    __slots__ = ("type", "method", "path", "raw_path", "query_string", "root_path", "scheme", "http_version", "headers", "client_host", "client_port", "server_host", "server_port", "subprotocols")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RAW_PATH_FIELD_NUMBER: _ClassVar[int]
    QUERY_STRING_FIELD_NUMBER: _ClassVar[int]
    ROOT_PATH_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    HTTP_VERSION_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_HOST_FIELD_NUMBER: _ClassVar[int]
    CLIENT_PORT_FIELD_NUMBER: _ClassVar[int]
    SERVER_HOST_FIELD_NUMBER: _ClassVar[int]
    SERVER_PORT_FIELD_NUMBER: _ClassVar[int]
    SUBPROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    type: str
    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    scheme: str
    http_version: str
    headers: _containers.RepeatedScalarFieldContainer[bytes]
    client_host: str
    client_port: int
    server_host: str
    server_port: int
    subprotocols: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, type: _Optional[str] = ..., method: _Optional[str] = ..., path: _Optional[str] = ..., raw_path: _Optional[bytes] = ..., query_string: _Optional[bytes] = ..., root_path: _Optional[str] = ..., scheme: _Optional[str] = ..., http_version: _Optional[str] = ..., headers: _Optional[_Iterable[bytes]] = ..., client_host: _Optional[str] = ..., client_port: _Optional[int] = ..., server_host: _Optional[str] = ..., server_port: _Optional[int] = ..., subprotocols: _Optional[_Iterable[str]] = ...) -> None: ...

class MethodCall(_message.Message):
    __slots__ = ("method", "stream", "reserve", "past_limit")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    PAST_LIMIT_FIELD_NUMBER: _ClassVar[int]
    method: str
    stream: bool
    reserve: bool
    past_limit: bool
    def __init__(self, method: _Optional[str] = ..., stream: bool = ..., reserve: bool = ..., past_limit: bool = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("id", "payload", "end", "kind", "code", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: int
    payload: bytes
    end: bool
    kind: DataKind
    code: int
    reason: str
    def __init__(self, id: _Optional[int] = ..., payload: _Optional[bytes] = ..., end: bool = ..., kind: _Optional[_Union[DataKind, str]] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: int
    reason: str
    def __init__(self, id: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("id", "bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    id: int
    bytes: int
    def __init__(self, id: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("id", "queue")
    ID_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    id: int
    queue: int
    def __init__(self, id: _Optional[int] = ..., queue: _Optional[int] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("id", "status", "headers", "body", "end", "subprotocol")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SUBPROTOCOL_FIELD_NUMBER: _ClassVar[int]
    id: int
    status: int
    headers: _containers.RepeatedScalarFieldContainer[bytes]
    body: bytes
    end: bool
    subprotocol: str
    def __init__(self, id: _Optional[int] = ..., status: _Optional[int] = ..., headers: _Optional[_Iterable[bytes]] = ..., body: _Optional[bytes] = ..., end: bool = ..., subprotocol: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("id", "state", "kind", "message", "pickled", "traceback")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    id: int
    state: ErrorState
    kind: str
    message: str
    pickled: bytes
    traceback: str
    def __init__(self, id: _Optional[int] = ..., state: _Optional[_Union[ErrorState, str]] = ..., kind: _Optional[str] = ..., message: _Optional[str] = ..., pickled: _Optional[bytes] = ..., traceback: _Optional[str] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("queue", "grant", "capacity", "ongoing", "owed")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    OWED_FIELD_NUMBER: _ClassVar[int]
    queue: int
    grant: int
    capacity: int
    ongoing: int
    owed: int
    def __init__(self, queue: _Optional[int] = ..., grant: _Optional[int] = ..., capacity: _Optional[int] = ..., ongoing: _Optional[int] = ..., owed: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("last_id",)
    LAST_ID_FIELD_NUMBER: _ClassVar[int]
    last_id: int
    def __init__(self, last_id: _Optional[int] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class Models(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...
