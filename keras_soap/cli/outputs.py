"""What planning commands print and leave behind."""

from absl import flags

from keras_soap.report.plan import Plan


def define_output_flags(values: flags.FlagValues) -> None:
    """Flags that name the files to write."""
    for name, what in (
        ("export_strategy", "File to write the strategy to: .textproto, or .pb for binary."),
        ("trace_out", "File to write the simulated step to, for https://ui.perfetto.dev (JSON)."),
        ("json_out", "File to write all figures to, as JSON."),
        ("report_out", "File to write a page with tables and the timeline to (HTML)."),
    ):
        flags.DEFINE_string(name, None, what, flag_values=values)


def finish(plan: Plan, values: flags.FlagValues) -> None:
    """Prints the summary and writes the files that flags name."""
    print(plan.summary())
    written = {}
    if values.export_strategy:
        plan.save(values.export_strategy)
        written["strategy"] = values.export_strategy
    if values.json_out:
        plan.write_figures(values.json_out, values.model)
        written["figures"] = values.json_out
    if values.trace_out:
        plan.write_trace(values.trace_out)
        written["trace"] = values.trace_out
    if values.report_out:
        plan.write_report(values.report_out)
        written["report"] = values.report_out
    for what, path in written.items():
        print(f"Wrote the {what} to {path}")
