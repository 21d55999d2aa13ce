"""The thin JetStream layer: connection, confirmed publishing, pulling, streams and consumers."""

from visionmesh.bus.connection import Connection
from visionmesh.bus.delivery import Delivery, acknowledge, origin, return_later
from visionmesh.bus.follower import Follower
from visionmesh.bus.keepalive import KeepAlive
from visionmesh.bus.publisher import Message, Publisher
from visionmesh.bus.puller import Puller

__all__ = [
    "Connection",
    "Delivery",
    "Follower",
    "KeepAlive",
    "Message",
    "Publisher",
    "Puller",
    "acknowledge",
    "origin",
    "return_later",
]
