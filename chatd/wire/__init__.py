"""Between bytes and requests, replies, events: one module per format, no I/O."""
