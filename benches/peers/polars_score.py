"""Scores a CSV file with an ONNX model the way that a Polars user would.

    python polars_score.py --model M.onnx --input rows.csv --output out.csv

A lazy scan, the model in `map_batches`, and a CSV sink: one query on the streaming
engine. For models with one numeric input [N, k], fed from the file's first k columns;
the output file holds those columns and `Prediction`, the model's first output.
"""

import argparse
import json
import os
import resource
import time

STARTED = time.perf_counter()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--batch", type=int, default=5_000, help="rows in a model call")
    parser.add_argument("--threads", type=int, default=2, help="threads of Polars")
    return parser.parse_args()


def main():
    args = arguments()
    # Read once, when Polars is loaded. It bounds the frames scored at once, too.
    os.environ["POLARS_MAX_THREADS"] = str(args.threads)
    import numpy as np
    import onnxruntime as ort
    import polars as pl

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        args.model, options, providers=["CPUExecutionProvider"]
    )
    feed = session.get_inputs()[0]
    output = session.get_outputs()[0]
    number = {"tensor(float)": np.float32, "tensor(double)": np.float64}[feed.type]
    prediction = {
        "tensor(string)": pl.String,
        "tensor(int64)": pl.Int64,
        "tensor(float)": pl.Float32,
        "tensor(double)": pl.Float64,
    }[output.type]

    rows = pl.scan_csv(args.input)
    names = rows.collect_schema().names()[: feed.shape[-1]]
    rows = pl.scan_csv(
        args.input, schema_overrides={name: pl.Float64 for name in names}
    ).select(names)
    schema = {**{name: pl.Float64 for name in names}, "Prediction": prediction}
    heights = []

    def score(frame):
        """Called on several threads at once, with as many rows as Polars has read."""
        heights.append(frame.height)
        parts = []
        for start in range(0, frame.height, args.batch):
            batch = np.empty((min(args.batch, frame.height - start), len(names)), number)
            for i, column in enumerate(frame.slice(start, args.batch)):
                batch[:, i] = column.to_numpy()
            (answers,) = session.run([output.name], {feed.name: batch})
            parts.append(pl.Series("Prediction", answers.ravel(), dtype=prediction))
        if not parts:
            parts.append(pl.Series("Prediction", [], dtype=prediction))
        return frame.with_columns(pl.concat(parts, rechunk=True))

    rows.map_batches(score, schema=schema, streamable=True).sink_csv(
        args.output, engine="streaming"
    )

    used = resource.getrusage(resource.RUSAGE_SELF)
    report = {
        "peer": "polars",
        "rows": sum(heights),
        "wall_s": round(time.perf_counter() - STARTED, 3),
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "peak_rss_mb": round(used.ru_maxrss / 1024, 1),
        "versions": {
            "polars": pl.__version__,
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
