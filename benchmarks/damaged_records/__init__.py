"""Damaged records on every topic that an outsider may write to, while the lanes run."""
