"""The plain model behind the same HTTP server: FastAPI, uvicorn with h11, the same reader of JSON, one pass for each request.

python benchmarks/serve_plain.py MODEL PORT
"""

import json
import sys

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic_core import from_json

import serve_models

name, port = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
model = getattr(serve_models, name)().eval()
app = FastAPI()


@app.post("/v1/predict")
async def predict(request: Request) -> Response:
    """Answers in the form of `holdtrue serve`."""
    values = from_json(await request.body())
    with torch.no_grad():
        found = model(torch.tensor(values["instances"], dtype=torch.float32))
    return Response(json.dumps({"predictions": found.tolist()}), media_type="application/json")


uvicorn.run(
    app,
    host="127.0.0.1",
    port=port,
    http="h11",
    ws="none",
    access_log=False,
    log_level="warning",
    lifespan="off",
)
