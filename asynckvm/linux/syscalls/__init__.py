"""The system calls: one table (`table`), what an entry is (`call`), and the handlers by noun."""
