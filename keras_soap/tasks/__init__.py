"""The one lowering: from operators, a strategy and a topology to tasks."""
