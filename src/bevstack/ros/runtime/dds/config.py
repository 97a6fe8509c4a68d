"""How Cyclone DDS is configured, from ROS's environment variables.

`CYCLONEDDS_URI` comes last and so overrides what is set here. Sizes: large messages want large fragments and a large receive
buffer (`max`, never `min`: a minimum that the kernel does not grant ends start-up). On a network a fragment fills one of
Cyclone's default datagrams (14720 bytes), which by default carries ten small fragments instead: measured, datagrams do not
get larger by it, and reliable raw images are no longer lost. On one machine datagrams have the greatest size that UDP knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

from bevstack.ros.runtime.wire import WireError

#: Values of ROS_AUTOMATIC_DISCOVERY_RANGE (REP of Iron and later).
RANGES = ("OFF", "LOCALHOST", "SUBNET", "SYSTEM_DEFAULT")

#: Participants of one machine that find each other without multicast (rmw_cyclonedds uses the same number).
_MAX_PARTICIPANTS = 32


def discovery_range(environment: Mapping[str, str] = os.environ) -> str:
    """ROS_LOCALHOST_ONLY=1 wins (as in Jazzy), then ROS_AUTOMATIC_DISCOVERY_RANGE, then SUBNET.

    :raises WireError: not one of `RANGES`.
    """
    if environment.get("ROS_LOCALHOST_ONLY", "").strip() == "1":
        return "LOCALHOST"
    chosen = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").strip().upper() or "SUBNET"
    if chosen not in RANGES:
        raise WireError(f"ROS_AUTOMATIC_DISCOVERY_RANGE is {chosen!r}: use one of {', '.join(RANGES)}")
    return chosen


def configuration(environment: Mapping[str, str] = os.environ) -> str:
    """The text for `dds_create_domain`: our settings, a comma, CYCLONEDDS_URI.

    :raises WireError: see `discovery_range`.
    """
    chosen = discovery_range(environment)
    user = environment.get("CYCLONEDDS_URI", "").strip()
    local = chosen in ("LOCALHOST", "OFF")
    general, discovery = [], []
    peers = [peer.strip() for peer in environment.get("ROS_STATIC_PEERS", "").split(";") if peer.strip()]
    if local:
        # On the loopback interface multicast stays on the machine. Humble's nodes in local mode are found only by it, Jazzy's
        # (which listen on the default interface) only by the unicast peer below.
        general.append(f"<AllowMulticast>{'spdp' if chosen == 'LOCALHOST' else 'false'}</AllowMulticast>")
        general.append("<MaxMessageSize>65500B</MaxMessageSize><FragmentSize>63000B</FragmentSize>")
        if "NetworkInterface" not in user:  # interfaces add up instead of overriding
            general.append('<Interfaces><NetworkInterface name="lo"/></Interfaces>')
    else:
        general.append("<FragmentSize>14000B</FragmentSize>")
    if chosen == "OFF":
        discovery.append(f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>")
    elif chosen != "SYSTEM_DEFAULT":
        discovery.append("<ParticipantIndex>auto</ParticipantIndex>")
        discovery.append(f"<MaxAutoParticipantIndex>{_MAX_PARTICIPANTS}</MaxAutoParticipantIndex>")
        if chosen == "LOCALHOST":
            peers.insert(0, "localhost")
        if peers:
            discovery.append(f"<Peers>{''.join(f'<Peer address={quoteattr(peer)}/>' for peer in peers)}</Peers>")
    parts = [
        f"<General>{''.join(general)}</General>" if general else "",
        f"<Discovery>{''.join(discovery)}</Discovery>" if discovery else "",
        '<Internal><SocketReceiveBufferSize max="16MB"/></Internal>',
    ]
    return f'<CycloneDDS><Domain Id="any">{"".join(parts)}</Domain></CycloneDDS>,{user}'
