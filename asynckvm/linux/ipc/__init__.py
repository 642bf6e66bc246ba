"""System V interprocess communication: objects that processes find by a key and that stay until somebody removes them."""
