"""Values and promises that every layer shares: exits, registers, the vector table, states, settings.

Everything here is pure: no I/O, no clock, no asyncio, no native code. It imports nothing but `asynckvm.errors`.
"""
