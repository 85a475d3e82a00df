"""Scores a CSV file with an ONNX model the way that a pandas user would.

    python pandas_score.py --model M.onnx --input rows.csv --output out.csv

`read_csv` in chunks, a model call for each chunk, and `to_csv` onto one open file. For
models with one numeric input [N, k], fed from the file's first k columns; the output
file holds those columns and `Prediction`, the model's first output.
"""

import argparse
import json
import resource
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

STARTED = time.perf_counter()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--batch", type=int, default=10_000, help="rows in a chunk")
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        help="1: one chunk after another; N: N - 1 chunks scored beside reading and writing",
    )
    return parser.parse_args()


def main():
    args = arguments()
    import numpy as np
    import onnxruntime as ort
    import pandas as pd

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        args.model, options, providers=["CPUExecutionProvider"]
    )
    feed = session.get_inputs()[0]
    output = session.get_outputs()[0].name
    number = {"tensor(float)": np.float32, "tensor(double)": np.float64}[feed.type]
    names = list(pd.read_csv(args.input, nrows=0).columns[: feed.shape[-1]])

    def score(frame):
        batch = np.ascontiguousarray(frame.to_numpy(number))
        (answers,) = session.run([output], {feed.name: batch})
        # Text as plain objects, which `to_csv` writes faster than its own string type.
        kind = object if answers.dtype == object else None
        frame["Prediction"] = pd.Series(answers.ravel(), frame.index, dtype=kind)
        return frame

    rows = 0
    chunks = pd.read_csv(
        args.input, usecols=names, dtype=np.float64, chunksize=args.batch
    )
    with open(args.output, "w", newline="") as file:

        def write(frame):
            nonlocal rows
            frame.to_csv(file, header=rows == 0, index=False, lineterminator="\n")
            rows += len(frame)

        if args.threads == 1:
            for frame in chunks:
                write(score(frame))
        else:
            # This thread reads and writes, in order; the others score.
            waiting = deque()
            with ThreadPoolExecutor(args.threads - 1) as pool:
                for frame in chunks:
                    waiting.append(pool.submit(score, frame))
                    if len(waiting) > args.threads:
                        write(waiting.popleft().result())
                while waiting:
                    write(waiting.popleft().result())

    used = resource.getrusage(resource.RUSAGE_SELF)
    report = {
        "peer": "pandas",
        "rows": rows,
        "wall_s": round(time.perf_counter() - STARTED, 3),
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "peak_rss_mb": round(used.ru_maxrss / 1024, 1),
        "versions": {
            "pandas": pd.__version__,
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
