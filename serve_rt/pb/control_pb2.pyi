from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeployRequest(_message.Message):
    __slots__ = ("application", "force", "forwarded", "more", "gone", "if_absent")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    IF_ABSENT_FIELD_NUMBER: _ClassVar[int]
    application: bytes
    force: bool
    forwarded: bool
    more: _containers.RepeatedScalarFieldContainer[bytes]
    gone: _containers.RepeatedScalarFieldContainer[str]
    if_absent: bool
    def __init__(self, application: _Optional[bytes] = ..., force: bool = ..., forwarded: bool = ..., more: _Optional[_Iterable[bytes]] = ..., gone: _Optional[_Iterable[str]] = ..., if_absent: bool = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("app", "deploy_id", "forwarded")
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOY_ID_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    app: str
    deploy_id: str
    forwarded: bool
    def __init__(self, app: _Optional[str] = ..., deploy_id: _Optional[str] = ..., forwarded: bool = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("app", "to_version", "deploy_id", "forwarded")
    APP_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEPLOY_ID_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    app: str
    to_version: int
    deploy_id: str
    forwarded: bool
    def __init__(self, app: _Optional[str] = ..., to_version: _Optional[int] = ..., deploy_id: _Optional[str] = ..., forwarded: bool = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("app", "deployment", "num_replicas", "deploy_id", "forwarded")
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    DEPLOY_ID_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    app: str
    deployment: str
    num_replicas: int
    deploy_id: str
    forwarded: bool
    def __init__(self, app: _Optional[str] = ..., deployment: _Optional[str] = ..., num_replicas: _Optional[int] = ..., deploy_id: _Optional[str] = ..., forwarded: bool = ...) -> None: ...

class ChangeReply(_message.Message):
    __slots__ = ("deploy_id", "revision", "application", "version")
    DEPLOY_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    deploy_id: str
    revision: int
    application: bytes
    version: int
    def __init__(self, deploy_id: _Optional[str] = ..., revision: _Optional[int] = ..., application: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("app",)
    APP_FIELD_NUMBER: _ClassVar[int]
    app: str
    def __init__(self, app: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: bytes
    def __init__(self, status: _Optional[bytes] = ...) -> None: ...

class NodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodesReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: bytes
    def __init__(self, nodes: _Optional[bytes] = ...) -> None: ...

class FeedRequest(_message.Message):
    __slots__ = ("subscriber",)
    SUBSCRIBER_FIELD_NUMBER: _ClassVar[int]
    subscriber: str
    def __init__(self, subscriber: _Optional[str] = ...) -> None: ...

class FeedUpdate(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: bytes
    def __init__(self, table: _Optional[bytes] = ...) -> None: ...

class BlobChunk(_message.Message):
    __slots__ = ("digest", "data", "local_only")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    digest: str
    data: bytes
    local_only: bool
    def __init__(self, digest: _Optional[str] = ..., data: _Optional[bytes] = ..., local_only: bool = ...) -> None: ...

class PutBlobReply(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: bool = ...) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("digest", "local_only")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    digest: str
    local_only: bool
    def __init__(self, digest: _Optional[str] = ..., local_only: bool = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("app", "replica", "tail_lines", "follow", "local_only")
    APP_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    TAIL_LINES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    app: str
    replica: str
    tail_lines: int
    follow: bool
    local_only: bool
    def __init__(self, app: _Optional[str] = ..., replica: _Optional[str] = ..., tail_lines: _Optional[int] = ..., follow: bool = ..., local_only: bool = ...) -> None: ...

class LogsChunk(_message.Message):
    __slots__ = ("source", "data")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    source: str
    data: bytes
    def __init__(self, source: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class AssignPush(_message.Message):
    __slots__ = ("epoch", "incarnation", "mod_revision", "assignments")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MOD_REVISION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    incarnation: str
    mod_revision: int
    assignments: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, epoch: _Optional[int] = ..., incarnation: _Optional[str] = ..., mod_revision: _Optional[int] = ..., assignments: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AssignReport(_message.Message):
    __slots__ = ("highest_epoch", "applied_revision", "observed", "refused", "demand", "demand_complete", "stats")
    HIGHEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    APPLIED_REVISION_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    DEMAND_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    highest_epoch: int
    applied_revision: int
    observed: _containers.RepeatedScalarFieldContainer[bytes]
    refused: bool
    demand: _containers.RepeatedCompositeFieldContainer[DemandReport]
    demand_complete: bool
    stats: _containers.RepeatedCompositeFieldContainer[ReplicaStats]
    def __init__(self, highest_epoch: _Optional[int] = ..., applied_revision: _Optional[int] = ..., observed: _Optional[_Iterable[bytes]] = ..., refused: bool = ..., demand: _Optional[_Iterable[_Union[DemandReport, _Mapping]]] = ..., demand_complete: bool = ..., stats: _Optional[_Iterable[_Union[ReplicaStats, _Mapping]]] = ...) -> None: ...

class ReplicaStats(_message.Message):
    __slots__ = ("replica_id", "values", "age_ms")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    values: _containers.ScalarMap[str, float]
    age_ms: int
    def __init__(self, replica_id: _Optional[str] = ..., values: _Optional[_Mapping[str, float]] = ..., age_ms: _Optional[int] = ...) -> None: ...

class DemandEntry(_message.Message):
    __slots__ = ("app", "deployment", "queued", "ongoing")
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    ONGOING_FIELD_NUMBER: _ClassVar[int]
    app: str
    deployment: str
    queued: int
    ongoing: int
    def __init__(self, app: _Optional[str] = ..., deployment: _Optional[str] = ..., queued: _Optional[int] = ..., ongoing: _Optional[int] = ...) -> None: ...

class VersionTally(_message.Message):
    __slots__ = ("app", "deployment", "version", "answered", "errors", "latencies")
    APP_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_FIELD_NUMBER: _ClassVar[int]
    app: str
    deployment: str
    version: str
    answered: int
    errors: int
    latencies: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, app: _Optional[str] = ..., deployment: _Optional[str] = ..., version: _Optional[str] = ..., answered: _Optional[int] = ..., errors: _Optional[int] = ..., latencies: _Optional[_Iterable[int]] = ...) -> None: ...

class DemandReport(_message.Message):
    __slots__ = ("reporter", "seq", "entries", "age_ms", "tallies")
    REPORTER_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TALLIES_FIELD_NUMBER: _ClassVar[int]
    reporter: str
    seq: int
    entries: _containers.RepeatedCompositeFieldContainer[DemandEntry]
    age_ms: int
    tallies: _containers.RepeatedCompositeFieldContainer[VersionTally]
    def __init__(self, reporter: _Optional[str] = ..., seq: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[DemandEntry, _Mapping]]] = ..., age_ms: _Optional[int] = ..., tallies: _Optional[_Iterable[_Union[VersionTally, _Mapping]]] = ...) -> None: ...

class DemandReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AutoscalingRequest(_message.Message):
    __slots__ = ("app", "forwarded")
    APP_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    app: str
    forwarded: bool
    def __init__(self, app: _Optional[str] = ..., forwarded: bool = ...) -> None: ...

class AutoscalingReply(_message.Message):
    __slots__ = ("overview",)
    OVERVIEW_FIELD_NUMBER: _ClassVar[int]
    overview: bytes
    def __init__(self, overview: _Optional[bytes] = ...) -> None: ...

class MarkNodeRequest(_message.Message):
    __slots__ = ("node_id", "mark", "forwarded")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    mark: str
    forwarded: bool
    def __init__(self, node_id: _Optional[str] = ..., mark: _Optional[str] = ..., forwarded: bool = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("force", "drain_s")
    FORCE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_S_FIELD_NUMBER: _ClassVar[int]
    force: bool
    drain_s: float
    def __init__(self, force: bool = ..., drain_s: _Optional[float] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IdentityReply(_message.Message):
    __slots__ = ("cluster", "node_id", "session", "boot_id", "software", "pid", "http_address", "launcher", "proxy_location")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    PROXY_LOCATION_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    node_id: str
    session: str
    boot_id: str
    software: str
    pid: int
    http_address: str
    launcher: str
    proxy_location: str
    def __init__(self, cluster: _Optional[str] = ..., node_id: _Optional[str] = ..., session: _Optional[str] = ..., boot_id: _Optional[str] = ..., software: _Optional[str] = ..., pid: _Optional[int] = ..., http_address: _Optional[str] = ..., launcher: _Optional[str] = ..., proxy_location: _Optional[str] = ...) -> None: ...

class RestartProxiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestartProxiesReply(_message.Message):
    __slots__ = ("replaced",)
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    replaced: int
    def __init__(self, replaced: _Optional[int] = ...) -> None: ...

class NodeMetricsRequest(_message.Message):
    __slots__ = ("reporter", "text", "gather")
    REPORTER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GATHER_FIELD_NUMBER: _ClassVar[int]
    reporter: str
    text: bytes
    gather: bool
    def __init__(self, reporter: _Optional[str] = ..., text: _Optional[bytes] = ..., gather: bool = ...) -> None: ...

class NodeMetricsReply(_message.Message):
    __slots__ = ("text", "tell_every_s")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TELL_EVERY_S_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    tell_every_s: float
    def __init__(self, text: _Optional[bytes] = ..., tell_every_s: _Optional[float] = ...) -> None: ...
