"""Before any test."""

import signal

# A shell ignores Ctrl-C in what it starts in the background, and children inherit that; some tests send it to their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
