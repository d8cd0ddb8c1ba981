"""Runs a strategy: DTensor shards and one multi-device function per step."""
