"""Both ends of an event: the outbox of the service that writes it, the inbox of the one that acts.

``outboxd_client.listener`` consumes what the relay outboxd publishes, and
``outboxd_client.testing`` starts the servers for tests.
"""

from ._errors import ErrorCode, OutboxError
from ._event import Event, EventId, EventType, Key
from ._inbox import AsyncInbox, Inbox, Later, Unprocessable, Verdict
from ._outbox import AsyncOutbox, Outbox
from ._replica import AsyncReplica, Replica

__all__ = [
    "AsyncInbox",
    "AsyncOutbox",
    "AsyncReplica",
    "ErrorCode",
    "Event",
    "EventId",
    "EventType",
    "Inbox",
    "Key",
    "Later",
    "Outbox",
    "OutboxError",
    "Replica",
    "Unprocessable",
    "Verdict",
]
