"""The sandbox API: run commands with their own files, limits and processes, and learn exactly how they ended.

`sandbox` is the object itself, `result` how a run ended, `limits` what a sandbox may use, `binds` and `root` what it sees.
"""

from asynckvm.sandbox.binds import Bind
from asynckvm.sandbox.limits import Limits
from asynckvm.sandbox.result import CompletedProcess, ProcessError, Reason
from asynckvm.sandbox.sandbox import Sandbox

__all__ = ["Bind", "CompletedProcess", "Limits", "ProcessError", "Reason", "Sandbox"]
