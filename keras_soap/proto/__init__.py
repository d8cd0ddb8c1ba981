"""Protobuf messages, generated from `protos/` at install."""
