"""The `keras-soap` command: one module per subcommand, found by `main`."""
