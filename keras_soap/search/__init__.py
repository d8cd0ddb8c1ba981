"""Searches for fast strategies, all behind one signature."""
