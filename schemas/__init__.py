"""The records of all topics, and their codecs."""
