"""The commands of `python -m holdtrue.inference`; users call them as `holdtrue predict`, `export` and `serve`."""

import argparse
import gc
import sys

parser = argparse.ArgumentParser(prog="python -m holdtrue.inference")
commands = parser.add_subparsers(dest="command", required=True)
predict = commands.add_parser("predict")
export = commands.add_parser("export")
for command in (predict, export):
    command.add_argument("model")
    command.add_argument("data")
    command.add_argument("--out", required=True)
    command.add_argument("--weights")
worker = commands.add_parser("serve-worker")
worker.add_argument("model")
worker.add_argument("--fd", type=int, required=True)
worker.add_argument("--options", required=True)
predict.add_argument("--pass-size", type=int, default=32)
predict.add_argument("--pad-value", type=float)
export.add_argument("--to", default="onnx,torch")
export.add_argument("--examples", type=int, default=64)

if __name__ == "__main__":
    options = parser.parse_args()
    gc.freeze()  # torch and ours, nothing of the user's yet: the collector need not look through them at the end
    if options.command == "predict":
        from ._predict import predict_file

        predict_file(
            options.model,
            options.data,
            options.out,
            weights=options.weights,
            pass_size=options.pass_size,
            pad_value=options.pad_value,
        )
    elif options.command == "serve-worker":
        import json
        import socket

        from ._serve import WorkerOptions, serve_worker

        settings = WorkerOptions(model=options.model, **json.loads(options.options))
        sys.exit(serve_worker(socket.socket(fileno=options.fd), settings))
    else:
        from holdtrue.errors import HoldtrueError

        from ._export import export_model

        try:
            export_model(
                options.model,
                options.data,
                options.out,
                weights=options.weights,
                targets=tuple(options.to.split(",")),
                examples=options.examples,
            )
        except HoldtrueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2 if isinstance(error, ValueError) else 1)
