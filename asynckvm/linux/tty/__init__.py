"""Terminals inside a sandbox: the line discipline, job control, and pseudoterminals as open files."""

from asynckvm.linux.tty.host import HostTerminal
from asynckvm.linux.tty.pty import Master, Slave, Terminals
from asynckvm.linux.tty.terminal import Send, Terminal
from asynckvm.linux.tty.termios import Termios, WindowSize

__all__ = ["HostTerminal", "Master", "Send", "Slave", "Terminal", "Terminals", "Termios", "WindowSize"]
