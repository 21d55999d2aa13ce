"""The encoded formats, one module each: read the header in microseconds, then unpack the pixels."""
