"""From a request to a replica: routers, their queues, and the feed of routes that fills them."""

from serve_rt.routing.demand import DemandReporter
from serve_rt.routing.exchange import Exchange
from serve_rt.routing.feed import FeedClient
from serve_rt.routing.outgoing import Outgoing
from serve_rt.routing.router import Router
from serve_rt.routing.routers import Routers

__all__ = ["DemandReporter", "Exchange", "FeedClient", "Outgoing", "Router", "Routers"]
