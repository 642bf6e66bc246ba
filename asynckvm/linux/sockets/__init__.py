"""Sockets of one sandbox: unix sockets and a loopback network, made of Python objects; no host socket exists behind any of them.

Imports point down: `abi`, `address`, `message`, `rights`, `network` know no socket; `base` and its `options` are what all sockets
are; `unix`, `unix_messages`, `tcp`, `udp`, `netlink` are the kinds; `families` makes them.
"""
