"""`SoapStrategy`: the Keras callback that captures a model, plans, and trains in parallel."""

import os
from typing import Any

import keras
from absl import logging
from tensorflow.experimental import dtensor

from keras_soap.capture.functions import flat_inputs
from keras_soap.capture.losses import CapturedStep
from keras_soap.capture.model import capture
from keras_soap.capture.optimizer_slots import num_slots
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import ExecutionError
from keras_soap.graph.operator_graph import INPUT
from keras_soap.objective import Objective
from keras_soap.report.plan import Plan
from keras_soap.report.ran_step import RanStep
from keras_soap.runtime import agreement, checks, cluster, cluster_topology, costing, layouts
from keras_soap.runtime.functions import StepFunctions
from keras_soap.runtime.measured_network import measure_network
from keras_soap.runtime.measured_search import measured_search
from keras_soap.runtime.profiled_step import StepTrace
from keras_soap.runtime.training import TrainingRun
from keras_soap.search.result import SearchResult
from keras_soap.strategy import proto_io
from keras_soap.strategy.strategy import Strategy, check_strategy
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.resolve import resolve

BATCHES = ("whole", "sharded")
"""What each client may feed; see `SoapStrategy`."""


class SoapStrategy(keras.callbacks.Callback):
    """Trains a model in parallel, every operator split and placed its own way.

    At the first batch it captures the model's operator graph, searches for the fastest strategy
    (or takes the one it is given), and shards all variables; from then on `fit` runs the strategy.
    Losses, metrics and weights are those of one device. At the end of training the model is an
    ordinary Keras model again.

    Example:
        ```python
        keras_soap.use_logical_cpus(4)  # on a machine without GPUs
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        soap = keras_soap.SoapStrategy(search_budget_s=10)
        model.fit(x, y, batch_size=64, callbacks=[soap])
        soap.save("strategy.textproto")
        ```

    Args:
        topology: `"local"` (the GPUs, or else the logical CPUs, of this process), the path of a
            topology file, or a `DeviceTopology`. Its devices must exist in this process.
        search_budget_s: How long to search, in seconds; where times are measured, up to three more
            searches of a quarter of it follow, each after a second look at what was found.
        strategy: A `Strategy`, or the path of a strategy file, to train under without searching.
        seed: Of the search.
        dims: Kinds of parallelism that the search may use, letters of `"SOAP"`: sample,
            operation, attribute, parameter.
        method: Name of the search: `"mcmc"`, or a baseline such as `"data_parallel"`.
        profile: Where times of operators come from. `"measured"`, the default of searches: each
            part that the search may ask for is run and timed before it begins, mostly within a
            second or two; times are kept in the user's cache directory, and an interrupted profile
            goes on where it was. Connections are timed too, if the topology is `"local"`.
            `"analytic"`, the default where nothing is searched for: the topology's figures. Else
            the path of a profile that `keras-soap profile` wrote, or a `CostProfile`. One that does
            not fit this machine or model gives a warning.
        time_chunk: Steps of a recurrent layer in one operator; it must divide the layer's steps.
            Blocks of steps are then placed each on its own, so that they can run in a wavefront.
            By default a layer is one operator.
        batches: What each client of a cluster feeds. `"whole"`, the default: the same batches, of
            all samples. `"sharded"`: its own shard of every batch, which is the shards of all
            clients in the order of their numbers. So `batch_size` is what one client gives, and
            data sets for validation are sharded too; `predict` gives each client the outputs for
            its own samples. Samples that a strategy needs elsewhere are sent there. Without a
            cluster both are the same.
        trace_out: File for the trace of a step (the sixth of training), simulated and as it really
            ran side by side, for https://ui.perfetto.dev. Client 0 of a cluster writes its own.
        verbose: 0 for silence, 1 for a progress bar and a table of the strategy found.

    Attributes:
        strategy: The strategy, once training has begun.
        result: The `SearchResult`, if it searched.
        layouts: DTensor layouts by operator: of its output, and of each of its weights.

    Raises:
        SoapError: From `fit`, before the first step: what cannot be captured, split or run.
    """

    def __init__(
        self,
        topology: "str | os.PathLike[str] | DeviceTopology" = "local",
        search_budget_s: float = 30.0,
        strategy: "Strategy | str | os.PathLike[str] | None" = None,
        *,
        seed: int = 0,
        dims: str = "SOAP",
        method: str = "mcmc",
        profile: costing.Asked = None,
        time_chunk: int | None = None,
        batches: str = "whole",
        trace_out: "str | os.PathLike[str] | None" = None,
        verbose: int = 1,
    ):
        super().__init__()
        if batches not in BATCHES:
            raise ValueError(f"batches={batches!r} is not one of {', '.join(map(repr, BATCHES))}.")
        self.search_budget_s = search_budget_s
        self.strategy = strategy if isinstance(strategy, Strategy) else None
        self.result: SearchResult | None = None
        self._strategy_file = None if isinstance(strategy, Strategy | None) else strategy
        self._topology = topology
        self._is_local = isinstance(topology, str) and topology.partition(":")[0] == "local"
        self._seed = seed
        self._dims = dims
        self._method = method
        self._asked_profile = profile
        self._verbose = verbose
        self._time_chunk = time_chunk
        self._batches = batches
        self._is_training = False
        self._trace = None if trace_out is None else StepTrace(trace_out)
        self._functions: StepFunctions | None = None
        self._costs: Costs | None = None
        self._plan: Plan | None = None
        self._device_names: list[str] = []

    @property
    def topology(self) -> DeviceTopology:
        """The devices to train on."""
        if not isinstance(self._topology, DeviceTopology):
            self._topology = (
                cluster_topology.resolve(str(self._topology))
                if self._is_local
                else resolve(self._topology)
            )
        return self._topology

    @property
    def costs(self) -> Costs:
        """What a strategy's task graph is built from (see `tasks.build`); after the first batch."""
        if self._costs is None:
            raise ExecutionError("Nothing is captured yet. Pass this callback to model.fit first.")
        return self._costs

    @property
    def layouts(self) -> dict[str, dict[str, dtensor.Layout]]:
        """By operator, but for inputs: `"output"` and, by path, weights."""
        run = self._started()
        graph = run.step.model.graph
        result = {}
        for number, operator in enumerate(graph.operators):
            if operator.kind == INPUT:
                continue  # In pieces, where they are read.
            result[operator.name] = {
                "output": self._output_layout(run, number),
                **{
                    graph.weights[weight].name: run.store[run.step.model.variables[weight]].layout
                    for weight in operator.weights
                },
            }
        return result

    def activations(self, inputs: Any) -> dict[str, Any]:
        """Outputs of all operators in inference mode, as DTensors with the strategy's layouts.

        Inputs are none of them: they lie in pieces where they are read. Of several clients, each
        calls it, and gets the operators that have parts there; but not those of which clients have
        unequal numbers of parts, for which DTensor has no mesh.

        Args:
            inputs: A batch of the size that the strategy is for, as the model takes it.
        """
        run = self._started()
        captured = capture(run.model, run.step.model.graph.batch_size, self._time_chunk)
        run.store.scatter()
        made = run.outputs_function(captured)(*flat_inputs(run.model, inputs))
        return {
            operator.name: dtensor.pack(parts, self._output_layout(run, number))
            for number, (operator, parts) in enumerate(
                zip(captured.graph.operators, made, strict=True)
            )
            if parts and layouts.is_even(run.devices(number))
        }

    @property
    def ran(self) -> RanStep | None:
        """The step that `trace_out` is of, once it has run."""
        return self._trace.ran if self._trace is not None else None

    @property
    def tracing_seconds(self) -> float:
        """What it took to trace the steps that have run so far, of training and evaluation."""
        self._started()
        assert self._functions is not None
        return self._functions.tracing_seconds

    @property
    def plan(self) -> Plan:
        """The strategy with its simulated costs, to print, save, trace or report."""
        if self._plan is None:
            costs = self.costs
            assert self.strategy is not None
            evaluated = {"strategy": Objective(costs).evaluate(self.strategy)}
            self._plan = Plan(costs, evaluated, training=True, method="given")
        return self._plan

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Writes the strategy to a file: text, or binary if its name ends in `.pb`."""
        self.plan.save(path)

    def on_train_begin(self, logs: Any = None) -> None:
        checks.check_joined()
        self._device_names = cluster_topology.tensorflow_names(self.topology)
        if self.topology.num_devices == 1:
            logging.warning(
                "There is one device (%s): nothing to parallelize. Training as usual. For several "
                "logical CPUs call keras_soap.use_logical_cpus(n) before TensorFlow starts.",
                self.topology.devices[0].name,
            )
            return
        if self._functions is None or not self._functions.fits(self.model):
            checks.check_model(self.model)
            self._functions = StepFunctions(
                self.model, self._start, self._time_chunk, sharded=self._batches == "sharded"
            )
        self._functions.install()
        self._is_training = True

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._trace is not None and self._is_training:
            self._trace.before_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._trace is not None and self._is_training:
            self._trace.after_step(lambda: self.plan)

    def on_train_end(self, logs: Any = None) -> None:
        if self._trace is not None and self._is_training:
            self._trace.end()
        self._is_training = False
        if self._functions is not None:
            self._functions.remove()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        ours = cluster.current()
        if ours is not None and self._functions is not None:
            ours.agree(
                "the beginning of an epoch",
                {
                    "its number": epoch,
                    "the number of steps": (self.params or {}).get("steps"),
                    "batches": self._batches,
                },
                "Give fit the same arguments, and equally many batches, on all clients, and "
                "BackupAndRestore a folder that all of them share.",
            )
            self._functions.compare_next_batch()

    def on_test_begin(self, logs: Any = None) -> None:
        functions = self._functions
        if functions is not None and functions.run is not None and not self._is_training:
            functions.install()

    def on_test_end(self, logs: Any = None) -> None:
        if self._functions is not None and not self._is_training:
            self._functions.remove()

    on_predict_begin, on_predict_end = on_test_begin, on_test_end

    def _started(self) -> TrainingRun:
        if self._functions is None or self._functions.run is None:
            raise ExecutionError("Training has not begun. Pass this callback to model.fit first.")
        return self._functions.run

    def _start(self, step: CapturedStep) -> TrainingRun:
        """Finds a strategy for what was captured, and shards the model."""
        lowering = Lowering(step.model.graph)
        ours = cluster.current()
        if ours is None:
            strategy = self._plan_for(step, lowering)
        else:
            agreement.check(ours, self.model, lowering.graph, self._settings(lowering))
            if self._measures and self._searches and self._is_local:
                self._topology, _ = measure_network(self.topology, self._device_names)
            text = ours.share(
                "strategy",
                lambda: agreement.to_text(self._plan_for(step, lowering), lowering, self.topology),
            )
            # Its figures say how reductions run, and client 0 may have measured them.
            machine = ours.share("topology", lambda: cluster_topology.to_text(self.topology))
            if self._costs is None:
                self._topology = cluster_topology.from_text(machine)
                self._costs = Costs(lowering, self.topology, Roofline(), num_slots(self.model))
                self.strategy = agreement.from_text(text, lowering, self.topology)
            strategy = self.strategy
        return TrainingRun(
            self.model, step, self.costs.lowering, strategy, self.topology, self._device_names
        )

    def _plan_for(self, step: CapturedStep, lowering: Lowering) -> Strategy:
        if self._measures:
            self._costs = costing.measured_costs(
                step.model,
                lowering,
                self.topology,
                self.model.optimizer,
                num_slots=num_slots(self.model),
                is_local=self._is_local,
                dims=self._dims if self._searches else None,
                progress=self._verbose > 0,
            )
        else:
            self._costs = costing.given_costs(
                self._asked_profile,
                lowering,
                self.topology,
                num_slots=num_slots(self.model),
                is_local=self._is_local,
            )
        self._topology = self._costs.topology
        return self._find_strategy()

    def _settings(self, lowering: Lowering) -> dict[str, Any]:
        """What must be equal on all clients beside the model."""
        search = [self._method, self._dims, self._seed] if self._searches else "none"
        given = self._given(lowering)
        return {
            "the topology": self.topology.name,
            "the search": search,
            "the strategy": given and agreement.describe(given),
            "time_chunk": self._time_chunk,
            "whether costs are measured": self._measures,
        }

    @property
    def _searches(self) -> bool:
        return self.strategy is None and self._strategy_file is None

    @property
    def _measures(self) -> bool:
        return costing.measures(self._asked_profile, self._method if self._searches else None)

    def _find_strategy(self) -> Strategy:
        lowering = self.costs.lowering
        given = self.strategy = self._given(lowering)
        if given is not None:
            return given
        checks.check_batch_size(lowering.graph.batch_size, self.topology.num_devices, self._dims)
        profile, slots = self.costs.profile, self.costs.num_slots
        self.result = measured_search(
            lowering,
            self.topology,
            profile,
            self.search_budget_s,
            seed=self._seed,
            dims=self._dims,
            method=self._method,
            num_slots=slots,
            progress=self._verbose > 0,
        )
        self.strategy = self.result.strategy
        # With what was measured again.
        self._costs = Costs(lowering, self.topology, profile, slots)
        evaluations = {"soap": self.result.evaluation, **self.result.baselines}
        self._plan = Plan(self.costs, evaluations, True, self.result.method, self.result)
        if self._verbose:
            print(f"\n{self.plan.summary()}\n", flush=True)
        return self.strategy

    def _given(self, lowering: Lowering) -> Strategy | None:
        """The strategy that was passed, if one was; raises where it does not fit."""
        if self._strategy_file is not None:
            return proto_io.load(
                self._strategy_file, lowering.graph, lowering.dimensions, self.topology
            )
        if self.strategy is not None:
            check_strategy(
                lowering.graph, lowering.dimensions, self.strategy, self.topology.num_devices
            )
        return self.strategy

    def _output_layout(self, run: TrainingRun, number: int) -> dtensor.Layout:
        operator = run.step.model.graph.operators[number]
        return layouts.output_layout(
            run.meshes[number],
            run.lowering.dimensions[number],
            run.strategy.configs[number],
            len(operator.output_specs[operator.first_made].shape),
            operator.first_made,
        )
