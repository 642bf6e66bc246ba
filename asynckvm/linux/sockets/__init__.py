"""Sockets of one sandbox: unix sockets and a loopback network, made of Python objects.

A host socket is only behind what a policy of the host grants: `policy` is what it is asked, `outside` asks, and `relay` (TCP) and
`flow` (UDP) carry. Imports point down: `abi`, `address`, `message`, `rights`, `network` know no socket; `base` and its `options`
are what all sockets are; `unix`, `unix_messages`, `tcp`, `udp`, `netlink` are the kinds; `families` makes them.
"""
