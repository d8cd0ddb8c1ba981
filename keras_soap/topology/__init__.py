"""Devices, links and the routes between them."""
