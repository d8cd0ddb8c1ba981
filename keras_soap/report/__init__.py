"""Strategies and timelines for people: tables, traces, pages."""
