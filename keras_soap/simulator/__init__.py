"""When each task of a task graph runs."""
