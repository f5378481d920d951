"""Killable worker processes in which every call has a deadline."""
