from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplicaPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_PHASE_UNSPECIFIED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_CONSTRUCTING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_READY: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_FAILED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_DRAINING: _ClassVar[ReplicaPhase]
REPLICA_PHASE_UNSPECIFIED: ReplicaPhase
REPLICA_PHASE_CONSTRUCTING: ReplicaPhase
REPLICA_PHASE_READY: ReplicaPhase
REPLICA_PHASE_FAILED: ReplicaPhase
REPLICA_PHASE_DRAINING: ReplicaPhase

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplicaReport(_message.Message):
    __slots__ = ("replica_id", "incarnation", "phase", "message", "constructor_imports", "constructor_s", "pid", "docs_path")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CONSTRUCTOR_IMPORTS_FIELD_NUMBER: _ClassVar[int]
    CONSTRUCTOR_S_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DOCS_PATH_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    incarnation: int
    phase: ReplicaPhase
    message: str
    constructor_imports: _containers.RepeatedScalarFieldContainer[str]
    constructor_s: float
    pid: int
    docs_path: str
    def __init__(self, replica_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., phase: _Optional[_Union[ReplicaPhase, str]] = ..., message: _Optional[str] = ..., constructor_imports: _Optional[_Iterable[str]] = ..., constructor_s: _Optional[float] = ..., pid: _Optional[int] = ..., docs_path: _Optional[str] = ...) -> None: ...

class PingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PingReply(_message.Message):
    __slots__ = ("user_loop_age_s", "ongoing", "queued", "phase", "slots_taken", "calls_queued", "calls_ongoing", "autoscaling_stats")
    class AutoscalingStatsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    USER_LOOP_AGE_S_FIELD_NUMBER: _ClassVar[int]
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TAKEN_FIELD_NUMBER: _ClassVar[int]
    CALLS_QUEUED_FIELD_NUMBER: _ClassVar[int]
    CALLS_ONGOING_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALING_STATS_FIELD_NUMBER: _ClassVar[int]
    user_loop_age_s: float
    ongoing: int
    queued: int
    phase: ReplicaPhase
    slots_taken: int
    calls_queued: int
    calls_ongoing: int
    autoscaling_stats: _containers.ScalarMap[str, float]
    def __init__(self, user_loop_age_s: _Optional[float] = ..., ongoing: _Optional[int] = ..., queued: _Optional[int] = ..., phase: _Optional[_Union[ReplicaPhase, str]] = ..., slots_taken: _Optional[int] = ..., calls_queued: _Optional[int] = ..., calls_ongoing: _Optional[int] = ..., autoscaling_stats: _Optional[_Mapping[str, float]] = ...) -> None: ...

class CheckHealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckHealthReply(_message.Message):
    __slots__ = ("healthy", "skipped", "message")
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    skipped: bool
    message: str
    def __init__(self, healthy: bool = ..., skipped: bool = ..., message: _Optional[str] = ...) -> None: ...

class ReconfigureRequest(_message.Message):
    __slots__ = ("user_config_json", "has_user_config", "max_ongoing_requests", "logging_json", "world_size", "rank", "node_rank", "local_rank")
    USER_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    HAS_USER_CONFIG_FIELD_NUMBER: _ClassVar[int]
    MAX_ONGOING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    LOGGING_JSON_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    NODE_RANK_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RANK_FIELD_NUMBER: _ClassVar[int]
    user_config_json: str
    has_user_config: bool
    max_ongoing_requests: int
    logging_json: str
    world_size: int
    rank: int
    node_rank: int
    local_rank: int
    def __init__(self, user_config_json: _Optional[str] = ..., has_user_config: bool = ..., max_ongoing_requests: _Optional[int] = ..., logging_json: _Optional[str] = ..., world_size: _Optional[int] = ..., rank: _Optional[int] = ..., node_rank: _Optional[int] = ..., local_rank: _Optional[int] = ...) -> None: ...

class ReconfigureReply(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("timeout_s",)
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    timeout_s: float
    def __init__(self, timeout_s: _Optional[float] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DumpStacksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DumpStacksReply(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsReply(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    def __init__(self, text: _Optional[bytes] = ...) -> None: ...
