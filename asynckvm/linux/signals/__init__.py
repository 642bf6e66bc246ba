"""Signals as Linux has them: what is sent, what is pending, and how a handler comes to run in ring 3.

Values and state: `numbers` (signals, codes, flags, masks), `info` (siginfo_t), `action` (what a process does with each signal),
`altstack`, `queue` (what is pending), `job` (stopped and continued). From values to guest memory and back: `frame` (struct
rt_sigframe) and `xstate` (the FP state in it). What happens: `send` (to a process, a group, a thread), `deliver` (before each
return to ring 3) and `restart` (what becomes of an interrupted system call). What all of them need of a task and a process is
written down in `owner`. Source: signal(7), kernel/signal.c and arch/x86/kernel/signal_64.c of Linux 6.
"""
