"""The sandbox API: run commands with their own files, limits and processes, and learn exactly how they ended.

`sandbox` is the object itself, `result` how a run ended, `limits` what a sandbox may use, `binds` and `root` what it sees,
`grants` what of the network it may reach.
"""

from asynckvm.linux.sockets.policy import NetworkRequest
from asynckvm.sandbox.binds import Bind
from asynckvm.sandbox.grants import AllowConnect
from asynckvm.sandbox.limits import Limits
from asynckvm.sandbox.result import CompletedProcess, ProcessError, Reason
from asynckvm.sandbox.sandbox import Sandbox

__all__ = ["AllowConnect", "Bind", "CompletedProcess", "Limits", "NetworkRequest", "ProcessError", "Reason", "Sandbox"]
