"""One rule per family of operators: the only place that knows a layer."""
